"""Hugging Face's greedy answers of the tiny models: what every target and lowering is compared with."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import tiny_models
import torch
from filelock import FileLock

NUM_NEW_TOKENS = 64
PROMPT_LENS = (5, 37, 70)
"""Shorter and longer than the prefill chunk (24) and the sliding window (16)."""


@cache
def load(name: str) -> Any:
    return tiny_models.causal_lm(name)


@cache
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 320, (length,), generator=generator).tolist() for length in PROMPT_LENS]


@cache
def reference(name: str) -> list[list[int]]:
    """Hugging Face's greedy tokens, one prompt at a time; worked out once for all test files and workers."""
    held = Path(os.environ["QEFF_HOME"]) / "references" / f"{name}.json"
    held.parent.mkdir(exist_ok=True)
    with FileLock(f"{held}.lock"):
        if not held.is_file():
            held.write_text(json.dumps(_reference(name)))
    answers: list[list[int]] = json.loads(held.read_text())
    return answers


def _reference(name: str) -> list[list[int]]:
    answers = []
    for ids in prompts():
        output = load(name).generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=NUM_NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        answers.append(output[0, len(ids) :].tolist())
    return answers


def answers(model: Any, asked: list[list[int]]) -> list[list[int]]:
    """Our greedy tokens."""
    return [ids.tolist() for ids in model.generate(asked, generation_len=NUM_NEW_TOKENS).generated_ids]
