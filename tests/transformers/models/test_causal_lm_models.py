"""Greedy tokens equal Hugging Face's, for tiny random models of real architectures, in both lowerings.

Prompts are shorter and longer than the prefill chunk (24) and the sliding window (16); there are more prompts than
slots, so slots are used again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from greedy import answers, load, prompts, reference

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import CorruptCheckpoint, UnsupportedModel

COMPILE = {"ctx_len": 160, "precision": "fp32", "full_batch_size": 2}

NOT_PAGED = {
    "gemma2": "soft-capping",
    "falcon": "without AttentionInterface",
    "mpt": "without AttentionInterface",
    "bloom": "without AttentionInterface",
}
"""What the paged lowering cannot express, with a word of the reason."""
RETAINED_IN_EVERY_RUN = {"llama", "gemma3_text", "qwen3_moe", "gpt2", "gemma2", "bloom"}
"""One for each kind of position, state, norm and expert, and for each reason against the other lowering."""
PAGED_IN_EVERY_RUN = {"gpt_oss", "gpt_neox", "opt", "phi3", *RETAINED_IN_EVERY_RUN, *NOT_PAGED}
CASES = [
    pytest.param(name, lowering, marks=[] if name in in_every_run else [pytest.mark.sweep])
    for name in tiny_models.CAUSAL_LMS
    for lowering, in_every_run in (("paged", PAGED_IN_EVERY_RUN), ("retained", RETAINED_IN_EVERY_RUN))
]


def compiled(name: str, lowering: str, **options: Any) -> QEFFAutoModelForCausalLM:
    model = QEFFAutoModelForCausalLM(load(name))
    model.compile(lowering=lowering, **{**COMPILE, "prefill_seq_len": 24, **options})
    return model


@pytest.mark.parametrize(("name", "lowering"), CASES)
def test_greedy_tokens_equal_hf(name: str, lowering: str) -> None:
    if lowering == "paged" and name in NOT_PAGED:
        with pytest.raises(UnsupportedModel, match=NOT_PAGED[name]):
            compiled(name, lowering)
        return
    model = compiled(name, lowering)
    assert answers(model, prompts()) == reference(name), "batched and chunked"
    assert [answers(model, [ids])[0] for ids in prompts()] == reference(name), "one by one"


@pytest.mark.parametrize("lowering", ["paged", "retained"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
def test_chunk_size_changes_nothing(name: str, lowering: str) -> None:
    for chunk in (1, 7, 160):
        assert answers(compiled(name, lowering, prefill_seq_len=chunk), prompts()) == reference(name), f"chunk {chunk}"


def test_a_layer_that_attends_twice_is_not_paged() -> None:
    """DiffLlama's attend with one key and two values."""
    from architectures.tiny import tiny_model

    from QEfficient.targets import choose_target
    from QEfficient.transformers.lowering.select import choose_lowering

    choice = choose_lowering(tiny_model("causal_lm", "diffllama"), choose_target("cpu"))
    assert choice.lowering == "retained"
    assert "one key and value per token" in choice.refused["paged"]


@pytest.mark.parametrize("name", list(NOT_PAGED))
def test_default_falls_to_retained_and_says_why(name: str) -> None:
    from QEfficient.targets import choose_target
    from QEfficient.transformers.lowering.select import choose_lowering

    choice = choose_lowering(load(name), choose_target("cpu"))
    assert choice.lowering == "retained"
    assert NOT_PAGED[name] in choice.refused["paged"]


@pytest.mark.parametrize("name", list(tiny_models.CAUSAL_LMS))
def test_references_are_not_trivial(name: str) -> None:
    """A model that repeats one token would agree with anything."""
    assert max(len(set(ids)) for ids in reference(name)) > 10


@pytest.mark.parametrize("ctx_len", [128, 64])
def test_longrope_takes_the_factors_of_the_compiled_context(ctx_len: int) -> None:
    """Below the original context the short factors, beyond it the long ones, as HF for a sequence that long."""
    rope = tiny_models.CAUSAL_LMS["phi3"]["rope_parameters"] | {"original_max_position_embeddings": 64}
    hf = tiny_models.causal_lm("phi3", rope_parameters=rope, original_max_position_embeddings=64)
    model = QEFFAutoModelForCausalLM(hf)
    model.compile(ctx_len=ctx_len, precision="fp32")
    ids = prompts()[1] + prompts()[1] if ctx_len > 64 else prompts()[1]
    output = hf.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, pad_token_id=0)
    assert answers_len(model, ids, 16) == output[0, len(ids) :].tolist()


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
def test_dynamic_rotary_embeddings_are_those_of_the_compiled_context(target: str) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    hf = tiny_models.causal_lm("llama", rope_parameters=rope, max_position_embeddings=64)
    ids = prompts()[1]
    expected = hf.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, pad_token_id=0)[0, len(ids) :]
    with QEFFAutoModelForCausalLM(hf) as model:
        model.compile(target=target, ctx_len=64, precision="fp32")
        assert answers_len(model, ids, 16) == expected.tolist()


def answers_len(model: QEFFAutoModelForCausalLM, ids: list[int], count: int) -> list[int]:
    row: np.ndarray = model.generate([ids], generation_len=count).generated_ids[0]
    return row.tolist()


LONG_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 8},
    **{"short_factor": [1.0] * 8, "long_factor": [1.0] * 7},
}


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("llama", {"rope_parameters": LONG_ROPE}, "rope_parameters make no 'longrope'"),
        ("gemma3_text", {"sliding_window": 0}, "sliding window is 0"),
    ],
)
def test_a_config_that_makes_no_model(tmp_path: Path, architecture: str, changes: dict[str, Any], message: str) -> None:
    """Before anything is compiled."""
    folder = tiny_models.save(tiny_models.causal_lm(architecture), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptCheckpoint, match=message):
        QEFFAutoModelForCausalLM.from_pretrained(folder).compile(target="cpu", ctx_len=32)
