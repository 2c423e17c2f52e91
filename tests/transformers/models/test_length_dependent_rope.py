"""Rotary embeddings that depend on the length of a text: equal where a graph can be, and said where it cannot."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0 + 0.3 * i for i in range(8)],
    "original_max_position_embeddings": 32,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def model(rope: dict[str, Any]) -> Any:
    positions = 128 if rope is LONGROPE else 32
    return tiny_models.causal_lm(
        "llama", max_position_embeddings=positions, num_hidden_layers=2, head_dim=16, rope_parameters=rope
    )


def answers(hf: Any, ctx_len: int, num_tokens: int) -> tuple[list[int], list[int]]:
    ids = (7 * torch.arange(num_tokens) % 300 + 3)[None]
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0)
    ours = QEFFAutoModelForCausalLM(hf)
    ours.compile(target="cpu", ctx_len=ctx_len, precision="fp32")
    return ours.generate([ids[0].tolist()], generation_len=8).generated_ids[0].tolist(), theirs[0, num_tokens:].tolist()


@pytest.mark.parametrize(("rope", "ctx_len", "num_tokens"), [(LONGROPE, 32, 10), (LONGROPE, 96, 60), (DYNAMIC, 32, 10)])
def test_answers_are_hugging_faces_within_one_embedding(
    rope: dict[str, Any], ctx_len: int, num_tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = answers(model(rope), ctx_len, num_tokens)
    assert ours == theirs
    assert ("changes the rotary embedding" in caplog.text) == (ctx_len > 32)


@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC])
def test_a_longer_context_says_which_texts_differ(rope: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    QEFFAutoModelForCausalLM(model(rope)).check_lowering(target="cpu", ctx_len=64)
    assert "Texts of up to 32 tokens get another one in Hugging Face; compile with ctx_len=32" in caplog.text
