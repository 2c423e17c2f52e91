"""Quantised checkpoints run: their answers are those of Hugging Face's model with the dense weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import quantized_models as packers
import tiny_models
import torch
from greedy import NUM_NEW_TOKENS, answers, prompts
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitNetQuantConfig

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM

ON_CPU: dict[str, Any] = {"ctx_len": 160, "prefill_seq_len": 24, "precision": "fp32", "full_batch_size": 2}
ON_CARD: dict[str, Any] = {"target": "cloud-ai-100-sim", "prefill_seq_len": 24, "ctx_len": 160, "precision": "fp32"}
"""Products of integers and scales are exact, so that a packed product and a dense one are the same function."""
GPTQ = (
    packers.gptq(few_bits=True, symmetric=False, act_order=True),
    {"quant_method": "gptq", "bits": 4, "group_size": 32},
)
AWQ = (packers.awq(16, few_bits=True), {"quant_method": "awq", "bits": 4, "group_size": 16})


def dense_model(auto_class: Any, plain: Path, weights: dict[str, torch.Tensor]) -> Any:
    """Hugging Face's model with the weights that a quantised checkpoint stands for."""
    dense = packers.save_dense(plain, plain.parent / "dense", weights)
    return auto_class.from_pretrained(dense, dtype=torch.float32).eval()


def greedy(model: Any) -> list[list[int]]:
    """Hugging Face's tokens."""
    mask = [torch.ones(1, len(ids), dtype=torch.int64) for ids in prompts()]
    options = {"max_new_tokens": NUM_NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return [
        model.generate(torch.tensor([ids]), attention_mask=ones, **options)[0, len(ids) :].tolist()
        for ids, ones in zip(prompts(), mask, strict=True)
    ]


LLAMA = ("llama", *GPTQ, packers.is_linear)
MIXTURE = ("qwen3_moe", *AWQ, packers.is_linear)
HQQ = ("llama", packers.hqq(few_bits=True), {"quant_method": "hqq"}, packers.is_linear)
TORCHAO = ("llama", packers.torchao("Int4Tensor", few_bits=True), {"quant_method": "torchao"}, packers.is_linear)
MXFP4 = ("gpt_oss", packers.mxfp4(), {"quant_method": "mxfp4"}, packers.is_expert)


@pytest.mark.parametrize(
    ("architecture", "packer", "section", "chosen", "options"),
    [
        pytest.param(*LLAMA, ON_CPU, id="gptq on cpu"),
        pytest.param(*LLAMA, ON_CARD, id="gptq on the card"),
        pytest.param(*MIXTURE, ON_CPU, id="awq on cpu"),
        pytest.param(*MIXTURE, ON_CARD, id="awq on the card", marks=pytest.mark.sweep),
        pytest.param(*MXFP4, ON_CPU, id="mxfp4 on cpu"),
        pytest.param(*MXFP4, ON_CARD, id="mxfp4 on the card", marks=pytest.mark.sweep),
        pytest.param(*HQQ, ON_CPU, id="hqq on cpu"),
        pytest.param(*HQQ, ON_CARD, id="hqq on the card", marks=pytest.mark.sweep),
        pytest.param(*TORCHAO, ON_CPU, id="torchao on cpu"),
        pytest.param(*TORCHAO, ON_CARD, id="torchao on the card", marks=pytest.mark.sweep),
    ],
)
def test_greedy_tokens_are_those_of_the_dense_weights(
    tmp_path: Path, architecture: str, packer: packers.Packer, section: Any, chosen: Any, options: dict[str, Any]
) -> None:
    plain = tiny_models.save(tiny_models.causal_lm(architecture), tmp_path / "plain")
    folder, weights = packers.quantize(plain, tmp_path / "quantized", packer, section, chosen=chosen)
    expected = greedy(dense_model(AutoModelForCausalLM, plain, weights))
    with QEFFAutoModelForCausalLM.from_pretrained(folder) as model:
        model.compile(**options)
        assert answers(model, prompts()) == expected


BITNET = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", "layers.1.mlp.up_proj"]}


def bitnet_model(plain: Path, folder: Path, section: dict[str, Any]) -> Any:
    """Hugging Face's model with its own layers for BitNet, over what the checkpoint stores."""
    from transformers.integrations.bitnet import replace_with_bitnet_linear, unpack_weights

    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    config = BitNetQuantConfig(linear_class=section.get("linear_class", "bitlinear"))
    replace_with_bitnet_linear(model, section["modules_to_not_convert"], config)
    stored = load_file(folder / "model.safetensors")
    if config.linear_class == "autobitlinear":
        stored = {
            name: unpack_weights(tensor, torch.float32) if tensor.dtype == torch.uint8 else tensor
            for name, tensor in stored.items()
        }
    model.load_state_dict(stored, assign=True)
    return model


@pytest.mark.parametrize(
    ("linear_class", "options"),
    [
        pytest.param("autobitlinear", ON_CPU, id="on cpu"),
        pytest.param("bitlinear", ON_CPU, id="divided, on cpu", marks=pytest.mark.sweep),
        pytest.param("bitlinear", ON_CARD, id="divided, on the card", marks=pytest.mark.sweep),
    ],
)
def test_bitnet_rounds_inputs_as_hugging_face_does(tmp_path: Path, linear_class: str, options: dict[str, Any]) -> None:
    plain = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path / "plain")
    section = BITNET | {"linear_class": linear_class}
    folder, _ = packers.quantize(plain, tmp_path / "quantized", packers.bitnet(linear_class, few_bits=True), section)
    with torch.compiler.set_stance("force_eager"):
        expected = greedy(bitnet_model(plain, folder, section))
    with QEFFAutoModelForCausalLM.from_pretrained(folder) as model:
        model.compile(**options)
        assert answers(model, prompts()) == expected


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
def test_an_encoder(tmp_path: Path, target: str) -> None:
    plain = tiny_models.save(tiny_models.encoder(), tmp_path / "plain")
    folder, weights = packers.quantize(plain, tmp_path / "quantized", *GPTQ)
    expected = dense_model(AutoModel, plain, weights)(torch.tensor([prompts()[0]])).last_hidden_state
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(seq_len=16, target=target, precision="fp32")
        (states,) = model.generate(prompts()[:1])["output"]
    np.testing.assert_allclose(states[: len(prompts()[0])], expected[0].detach().numpy(), atol=1e-4)


def test_a_text_to_text_model(tmp_path: Path) -> None:
    from architectures.tiny import tiny_model

    plain = tiny_models.save(tiny_model("seq2seq", "t5"), tmp_path / "plain")
    folder, weights = packers.quantize(plain, tmp_path / "quantized", *GPTQ)
    hf = dense_model(AutoModelForSeq2SeqLM, plain, weights)
    asked = prompts()[0]
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    expected = hf.generate(torch.tensor([asked]), **options)[0, 1:].tolist()
    with QEFFAutoModelForSeq2SeqLM.from_pretrained(folder) as model:
        model.compile(target="cpu", precision="fp32", encoder_ctx_len=48, ctx_len=32)
        assert model.generate([asked], generation_len=16).generated_ids[0].tolist() == expected


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_experts_stay_packed(tmp_path: Path, architecture: str) -> None:
    plain = tiny_models.save(tiny_models.causal_lm(architecture, moe_intermediate_size=64), tmp_path / "plain")
    folder, weights = packers.quantize(plain, tmp_path / "quantized", *AWQ, chosen=packers.is_linear)
    path = QEFFAutoModelForCausalLM.from_pretrained(folder).export(target="cpu")
    graph = onnx.load(path, load_external_data=False).graph
    experts = {tensor.name: tensor for tensor in graph.initializer if ".experts." in tensor.name}
    assert {tensor.data_type for name, tensor in experts.items() if name.endswith(".B")} == {onnx.TensorProto.UINT4}
    assert {name.rpartition(".")[2] for name in experts} == {"B", "scales", "zero_points", "shape"}
    num_bytes = sum(
        int(entry.value) for tensor in experts.values() for entry in tensor.external_data if entry.key == "length"
    )
    num_weights = sum(weight.numel() for name, weight in weights.items() if ".experts." in name)
    assert num_bytes < 0.7 * num_weights  # groups of 16
