"""A last operator that changes nothing, as in models that were never trained: OpenVINO drops it, and the name of the
output stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures.tiny import tiny_model

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM

PROMPT = [5, 6, 7, 8, 9]


def test_norm_of_ones() -> None:
    hf = tiny_model("text_encoder", "t5")
    with torch.no_grad():
        hf.encoder.final_layer_norm.weight.fill_(1.0)
        expected = hf.get_encoder()(torch.tensor([PROMPT]))[0].numpy()
    with QEFFAutoModel(hf.get_encoder()) as model:
        model.compile(target="cpu", precision="fp32", seq_len=8)
        (output,) = model.generate([PROMPT]).values()
    np.testing.assert_allclose(output[0][: len(PROMPT)], expected[0], atol=1e-4)


def test_bias_of_zeros() -> None:
    hf = tiny_model("seq2seq", "bart")
    hf.final_logits_bias.zero_()
    prompt = [*PROMPT, hf.config.eos_token_id]
    expected = hf.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, num_beams=1)[0, 1:]
    with QEFFAutoModelForSeq2SeqLM(hf) as model:
        model.compile(target="cpu", precision="fp32", encoder_ctx_len=16, ctx_len=16)
        answer = model.generate([prompt], generation_len=8).generated_ids[0]
    assert answer.tolist() == expected[: len(answer)].tolist()


@pytest.mark.parametrize("lowering", ["paged", "retained"])
def test_scale_of_one(lowering: str) -> None:
    hf = tiny_model("causal_lm", "cohere")
    hf.config.logit_scale = hf.logit_scale = 1.0
    expected = hf.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False)[0, len(PROMPT) :]
    with QEFFAutoModelForCausalLM(hf) as model:
        model.compile(target="cpu", lowering=lowering, precision="fp32", ctx_len=32)
        answer = model.generate([PROMPT], generation_len=8).generated_ids[0]
    assert answer.tolist() == expected.tolist()
