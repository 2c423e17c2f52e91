"""How many positions a model has: what Hugging Face runs, and no more than its tables hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from architectures.tiny import model_class, tiny_config
from click.testing import CliRunner
from transformers import PreTrainedConfig

from QEfficient import (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
    from_package,
)
from QEfficient.cloud.description import _max_positions
from QEfficient.cloud.inspect import command as inspect
from QEfficient.errors import CapacityError
from QEfficient.transformers.tasks.position_limits import max_seq_len, stretched

CLASSES: dict[str, Any] = {
    "causal_lm": QEFFAutoModelForCausalLM,
    "seq2seq": QEFFAutoModelForSeq2SeqLM,
    "sequence_classification": QEFFAutoModelForSequenceClassification,
    "text_encoder": QEFFAutoModel,
}
NUMBERS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_encoder_position_embeddings")
TARGETS = ["cpu", "cloud-ai-100-sim"]


def model(family: str, model_type: str, positions: int = 34, **changes: Any) -> Any:
    """A tiny model whose config says ``positions``, with whatever name it has for them."""
    values = tiny_config(family, model_type).to_dict()
    values |= {name: positions for name in NUMBERS if name in values} | changes
    torch.manual_seed(0)
    config = type(tiny_config(family, model_type))(**values)
    return model_class(family, model_type).from_config(config, dtype=torch.float32).eval()


def runs(hf: Any, num_tokens: int) -> bool:
    ids = torch.full((1, num_tokens), 17)
    arguments = {"decoder_input_ids": ids} if hf.config.is_encoder_decoder else {}
    try:
        with torch.no_grad():
            (hf.base_model if hasattr(hf, "classification_head") else hf)(input_ids=ids, **arguments)
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("family", "model_type", "limit"),
    [
        ("text_encoder", "roberta", 33),  # counts from pad_token_id + 1, and padding is token 0
        ("text_encoder", "esm", 33),
        ("text_encoder", "mpnet", 32),
        ("sequence_classification", "xlm-roberta", 33),
        ("sequence_classification", "canine", 34),
        ("causal_lm", "gptj", 34),
        ("causal_lm", "opt", 34),  # counts from 2, in a table of two more
        ("causal_lm", "mpt", 34),  # its distances come from a table
        ("seq2seq", "bart", 34),
    ],
)
def test_tables_end(family: str, model_type: str, limit: int) -> None:
    hf = model(family, model_type, pad_token_id=0)
    limits = CLASSES[family](hf).max_lens()
    assert set(limits.values()) == {limit}
    assert (runs(hf, limit), runs(hf, limit + 1)) == (True, False)


ALIBI = {"alibi": True, "new_decoder_architecture": False, "multi_query": False, "parallel_attn": False, "bias": True}
DISTANCES = {"position_biased_input": False, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


@pytest.mark.parametrize(
    ("family", "model_type", "changes"),
    [
        ("causal_lm", "falcon", ALIBI),
        ("causal_lm", "jamba", {}),
        ("causal_lm", "rwkv", {}),
        ("text_encoder", "t5", {"n_positions": 34}),
        ("text_encoder", "deberta-v2", {**DISTANCES, "position_buckets": 8}),
        ("sequence_classification", "mt5", {"n_positions": 34}),
        ("seq2seq", "t5", {"n_positions": 34}),
    ],
)
def test_without_positions_there_is_no_limit(family: str, model_type: str, changes: dict[str, Any]) -> None:
    hf = model(family, model_type, **changes)
    assert CLASSES[family](hf).max_lens() == {}
    assert runs(hf, 50)


@pytest.mark.parametrize(
    ("rope", "positions", "limit"),
    [
        ({"rope_type": "default"}, 40, 40),
        ({"rope_type": "yarn", "factor": 4.0}, 40, 160),  # transformers takes the number for the original one
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 40, 128),  # as Qwen3
        ({"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 8}, 320, 320),  # as DeepSeek-V3
        ({"rope_type": "linear", "factor": 2.5}, 40, 100),
        ({"rope_type": "dynamic", "factor": 2.0}, 40, 80),
        ({**tiny_models.LLAMA3_ROPE, "factor": 32.0}, 1024, 1024),  # as Llama 3.2: 32 times the original is more
        ({**tiny_models.LLAMA3_ROPE, "factor": 8.0}, 64, 512),
    ],
    ids=str,
)
def test_scaled_rotary_embeddings(rope: dict[str, Any], positions: int, limit: int) -> None:
    hf = model("causal_lm", "qwen3", positions, rope_parameters={"rope_theta": 10000.0, **rope})
    assert QEFFAutoModelForCausalLM(hf).max_lens() == {"ctx_len": limit}


def test_layers_of_several_kinds() -> None:
    scaled, plain = {"rope_type": "linear", "factor": 8.0}, {"rope_type": "default"}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    config = PreTrainedConfig()
    for kinds, limit in (((scaled, plain), 64), ((scaled, scaled), 512), ((yarn, plain), 128), ((plain, plain), 64)):
        config.rope_parameters = dict(zip(("full_attention", "sliding_attention"), kinds, strict=True))
        assert stretched(config, 64) == limit


def test_a_model_that_cannot_be_measured_has_what_its_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "QEfficient.transformers.tasks.position_limits"
    monkeypatch.setattr(f"{module}._measure", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    assert QEFFAutoModelForCausalLM(model("causal_lm", "jamba")).max_lens() == {"ctx_len": 34}


class Sliced(torch.nn.Module):
    """A model of another's code, whose positions are the first rows of a parameter."""

    def __init__(self, inner: Any):
        super().__init__()
        self.config, self.inner = inner.config, inner
        self.positions = torch.nn.Parameter(torch.zeros(1, 24, inner.config.hidden_size))

    def forward(self, input_ids: Any, attention_mask: Any = None, use_cache: bool = False) -> Any:
        states = self.inner.get_input_embeddings()(input_ids) + self.positions[:, : input_ids.shape[1]]
        return self.inner(inputs_embeds=states, use_cache=False)


def test_a_table_that_is_cut() -> None:
    assert max_seq_len(Sliced(model("causal_lm", "bloom"))) == 24


def test_inspect_says_the_same(tmp_path: Path) -> None:
    hf = model("text_encoder", "roberta", pad_token_id=1)
    folder = str(tiny_models.save(hf, tmp_path))
    assert "Positions     32\n" in CliRunner().invoke(inspect, [folder]).output
    both = _max_positions(QEFFAutoModelForSeq2SeqLM(model("seq2seq", "bart")))
    assert both == {"max_positions": 34, "max_encoder_positions": 34}


@pytest.mark.parametrize("target", TARGETS)
def test_roberta_reads_up_to_its_last_position(target: str) -> None:
    hf = model("text_encoder", "roberta", pad_token_id=1)
    ours = QEFFAutoModel(hf)
    with pytest.raises(CapacityError, match=r"seq_len=34 is beyond the 32 positions .*seq_len=32"):
        ours.compile(target=target, seq_len=34)
    ids = [(5 * torch.arange(count) % 300 + 4).tolist() for count in (32, 9)]
    package = ours.compile(target=target, seq_len=32, batch_size=2, precision="fp32")
    with from_package(package) as opened:
        states = opened.generate(ids)["output"]
        with pytest.raises(CapacityError, match="33"):
            opened.generate([[7] * 33])
    for row, got in zip(ids, states, strict=True):
        expected = hf(torch.tensor([row])).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(got[: len(row)], expected, atol=1e-3)


BEYOND = {
    "yarn": lambda: tiny_models.causal_lm(
        "qwen3", max_position_embeddings=32, num_hidden_layers=1, rope_parameters=ROPE, head_dim=16
    ),
    "alibi": lambda: tiny_models.causal_lm("falcon", max_position_embeddings=32, num_hidden_layers=1, **ALIBI),
}
ROPE = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        pytest.param(kind, target, marks=[pytest.mark.sweep] if (kind, target) == ("alibi", TARGETS[1]) else [])
        for kind in BEYOND
        for target in TARGETS
    ],
)
def test_beyond_the_number_in_the_config(kind: str, target: str) -> None:
    hf = BEYOND[kind]()
    ids = (7 * torch.arange(60) % 300 + 3)[None]
    expected = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, pad_token_id=0)
    ours = QEFFAutoModelForCausalLM(hf)
    ours.compile(target=target, ctx_len=96, prefill_seq_len=32, precision="fp32")
    with ours:
        assert ours.generate(ids.tolist(), generation_len=30).generated_ids[0].tolist() == expected[0, 60:].tolist()
