"""Recurrent models whose prompts are read in few tokens at a time."""

from __future__ import annotations

import pytest
import torch
from architectures.tiny import tiny_config
from transformers import AutoModelForCausalLM

from QEfficient import QEFFAutoModelForCausalLM

PROMPT = [5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("prefill_seq_len", [4, pytest.param(1, marks=pytest.mark.sweep)])
def test_chunks_shorter_than_what_is_traced(prefill_seq_len: int) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("causal_lm", "mamba"), dtype=torch.float32).eval()
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=4, do_sample=False)[0, len(PROMPT) :].tolist()
    with QEFFAutoModelForCausalLM(model) as ours:
        ours.compile(target="cpu", ctx_len=16, prefill_seq_len=prefill_seq_len, precision="fp32")
        assert ours.generate([PROMPT], generation_len=4).generated_ids[0].tolist() == expected
