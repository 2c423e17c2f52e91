"""Rotary embeddings that depend on the length of a text: by sequence on cpu, and said where a graph has one."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM

ORIGINAL = 32
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0 + 0.3 * i for i in range(8)],
    "original_max_position_embeddings": ORIGINAL,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0}
LENS = (10, ORIGINAL - 4, ORIGINAL, 60)
"""Prompts whose answers stay within the original context, leave it, and begin outside of it."""


@cache
def model(kind: str) -> Any:
    rope = DYNAMIC if kind == "dynamic" else LONGROPE
    values: dict[str, Any] = {"num_hidden_layers": 2, "rope_parameters": rope}
    if kind == "phimoe":
        return phimoe()
    if kind == "phi3":
        config = {"original_max_position_embeddings": ORIGINAL, "pad_token_id": 0}
        return tiny_models.causal_lm("phi3", max_position_embeddings=128, **config, **values)
    positions = ORIGINAL if kind == "dynamic" else 128
    return tiny_models.causal_lm("llama", max_position_embeddings=positions, head_dim=16, **values)


def phimoe() -> Any:
    """Its code scales by length beside the frequencies, in a branch over data."""
    from transformers import PhimoeConfig, PhimoeForCausalLM

    torch.manual_seed(0)
    config = PhimoeConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=128,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=LONGROPE | {"short_mscale": 1.1, "long_mscale": 1.6},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    return PhimoeForCausalLM(config).eval()


def prompt(num_tokens: int) -> list[int]:
    return (7 * torch.arange(num_tokens) % 300 + 3).tolist()


def expected(kind: str, num_tokens: int, num_new: int = 12) -> list[int]:
    """Of a model that has seen no other text: dynamic NTK remembers the longest."""
    ids = torch.tensor([prompt(num_tokens)])
    fresh = copy.deepcopy(model(kind))
    theirs = fresh.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False, pad_token_id=0
    )
    return theirs[0, num_tokens:].tolist()


def compiled(kind: str, **options: Any) -> QEFFAutoModelForCausalLM:
    ours = QEFFAutoModelForCausalLM(model(kind))
    ours.compile(**{"target": "cpu", "precision": "fp32", "ctx_len": 96, **options})
    return ours


def answers(ours: QEFFAutoModelForCausalLM, lens: Sequence[int], num_new: int = 12) -> list[list[int]]:
    result = ours.generate([prompt(num_tokens) for num_tokens in lens], generation_len=num_new)
    return [ids.tolist() for ids in result.generated_ids]


@pytest.mark.parametrize("lowering", ["paged", "retained"])
@pytest.mark.parametrize("kind", ["phi3", pytest.param("phimoe", marks=pytest.mark.sweep), "dynamic"])
def test_each_sequence_gets_hugging_faces_embedding(kind: str, lowering: str, caplog: pytest.LogCaptureFixture) -> None:
    """Beside others of other lengths, in chunks, and across the border, where both compute a sequence anew."""
    wanted = [expected(kind, num_tokens) for num_tokens in LENS]
    with compiled(kind, lowering=lowering, full_batch_size=4, prefill_seq_len=16) as ours:
        assert answers(ours, LENS) == wanted
        assert [answers(ours, [num_tokens])[0] for num_tokens in LENS] == wanted
    assert "changes the rotary embedding" not in caplog.text


def test_the_lengths_decide_something() -> None:
    """Else the tests above could not fail: with one embedding for all lengths Hugging Face answers otherwise."""
    for kind, same in (("phi3", {"long_factor": LONGROPE["short_factor"]}), ("dynamic", {"rope_type": "default"})):
        plain = copy.deepcopy(model(kind))
        plain.config.rope_parameters = {**plain.config.rope_parameters, **same}
        plain.model.rotary_emb = type(plain.model.rotary_emb)(plain.config)
        ids = torch.tensor([prompt(60)])
        theirs = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert theirs[0, 60:].tolist() != expected(kind, 60), kind


def test_a_context_that_is_longer_needs_no_other_graph() -> None:
    with compiled("dynamic", ctx_len=64) as ours:
        package = ours.qpc_path
        assert answers(ours, [10]) == [expected("dynamic", 10)]
    with QEFFAutoModelForCausalLM.from_package(package, ctx_len=96) as longer:
        assert answers(longer, [60]) == [expected("dynamic", 60)]


def test_a_model_that_caches_across_the_border_is_followed_up_to_it() -> None:
    """Llama's code in transformers keeps the keys of the other embedding there; ours computes them anew."""
    with compiled("llama") as ours:
        for num_tokens in (10, 60):
            assert answers(ours, [num_tokens]) == [expected("llama", num_tokens)]
        ((*ours_across,),), theirs = answers(ours, [ORIGINAL - 4]), expected("llama", ORIGINAL - 4)
    assert ours_across[:5] == theirs[:5]


@pytest.mark.parametrize("kind", ["phi3", "dynamic"])
def test_verify_starts_each_text_anew(kind: str) -> None:
    with compiled(kind) as ours:
        report = ours.verify([prompt(60), prompt(28), prompt(10)], generation_len=8)
    assert report.agrees, str(report)


@pytest.mark.parametrize("kind", ["phi3", "dynamic"])
def test_perplexity_is_that_of_hugging_face(kind: str) -> None:
    with compiled(kind) as ours:
        text = prompt(80)
        theirs = ours.evaluate(text, ctx_len=50, reference=True)
        assert ours.evaluate(text, ctx_len=50).perplexity == pytest.approx(theirs.perplexity, rel=1e-3)


@pytest.mark.parametrize(("kind", "num_tokens"), [("phi3", 10), pytest.param("dynamic", 10, marks=pytest.mark.sweep)])
def test_a_card_within_the_original_context_is_hugging_face(kind: str, num_tokens: int) -> None:
    ours = compiled(kind, target="cloud-ai-100-sim", precision=None, ctx_len=ORIGINAL, prefill_seq_len=16)
    assert answers(ours, [num_tokens]) == [expected(kind, num_tokens)]


@pytest.mark.parametrize("kind", ["phi3", "dynamic"])
def test_a_card_says_which_texts_differ(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    QEFFAutoModelForCausalLM(model(kind)).check_lowering(target="cloud-ai-100-sim", ctx_len=64)
    assert "Texts of up to 32 tokens get another one in Hugging Face; compile with ctx_len=32" in caplog.text


def test_verify_says_which_texts_differ_on_a_card() -> None:
    ours = compiled("phi3", target="cloud-ai-100-sim", precision=None, ctx_len=64, prefill_seq_len=16)
    report = ours.verify([prompt(10)], generation_len=2)
    assert "Texts of up to 32 tokens get another one" in str(report)
    assert "ctx_len=32" in report.to_dict()["remark"]
