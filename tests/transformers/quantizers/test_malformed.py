"""Damaged and unknown quantised checkpoints: a typed error that names file and key, never another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quantized_models as packers
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.from_checkpoint import copy_with_values
from QEfficient.transformers.checkpoint.load import load_skeleton

WEIGHT = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}
W4A16 = {"num_bits": 4, "strategy": "group", "group_size": 32}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("plain") / "llama")


def checkpoint(plain: Path, folder: Path, packer: packers.Packer, section: Any) -> Path:
    return packers.quantize(plain, folder / "quantized", packer, section)[0]


def edit(folder: Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def drop(part: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[f"{WEIGHT}.{part}"]

    return change


def add(part: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{WEIGHT}.{part}": tensor})


def blocks_of_16(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith("weight_scale")]:
        num_rows, width = tensors[name.replace("scale", "packed")].shape
        tensors[name] = torch.ones(num_rows // 16, width * 8 // 16)


def add_dense(tensors: Tensors) -> None:
    tensors[f"{WEIGHT}.weight"] = torch.zeros(64, 64)


def put(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[f"{WEIGHT}.{part}"] = make(tensors[f"{WEIGHT}.{part}"]).contiguous()

    return change


def state_with(state: torch.Tensor, **changes: Any) -> torch.Tensor:
    content = json.dumps(json.loads(bytes(state.tolist())) | changes)
    return torch.tensor([*content.encode()], dtype=torch.uint8)


def with_nan(scales: torch.Tensor) -> torch.Tensor:
    scales = scales.clone()
    scales.view(-1)[3] = torch.nan
    return scales


STATE = "weight.quant_state.bitsandbytes__nf4"
NF4 = (packers.bitsandbytes("nf4"), {"quant_method": "bitsandbytes", "load_in_4bit": True})
of_kind = packers.compressed_section
W8A8 = {"num_bits": 8, "strategy": "channel"}
BLOCK = {"num_bits": 4, "strategy": "block", "block_structure": [16, 16]}
_ASYMMETRIC = W4A16 | {"symmetric": False}
ASYMMETRIC = (packers.compressed("pack-quantized", **_ASYMMETRIC), of_kind("pack-quantized", **_ASYMMETRIC))
PACKED = (packers.compressed("pack-quantized", **W4A16), packers.compressed_section("pack-quantized", **W4A16))
DAMAGE = [
    (packers.gptq(), GPTQ, drop("scales"), r"q_proj.* is stored without 'scales'"),
    (packers.gptq(), GPTQ, drop("qweight"), r"q_proj.* is stored without 'qweight'"),
    (packers.gptq(), GPTQ, put("scales", lambda scales: scales[:, :-1]), r"q_proj.qweight' has shape"),
    (packers.gptq(), GPTQ, put("scales", lambda scales: scales[:1]), r"q_proj.qzeros' has shape"),
    (packers.gptq(), GPTQ, put("qweight", lambda words: words[:-1]), r"q_proj.*shape|groups"),
    (packers.gptq(), GPTQ, put("qzeros", lambda zeros: zeros.float()), r"q_proj.qzeros' is stored as float32"),
    (packers.gptq(), GPTQ, put("scales", with_nan), r"q_proj.scales' holds NaN"),
    (packers.gptq(), GPTQ | {"bits": 8}, lambda tensors: None, r"has shape .* expected .* bits in the config contradict"),
    (packers.gptq(act_order=True), GPTQ, put("g_idx", lambda index: index + 7), r"q_proj.g_idx' has indices from"),
    (packers.gptq(), GPTQ, add_dense, "the same weight"),
    (packers.awq(), AWQ, put("scales", with_nan), r"q_proj.scales' holds NaN"),
    (packers.awq(), AWQ | {"group_size": 48}, lambda tensors: None, "do not divide 64|has shape"),
    (packers.awq(), AWQ, put("qzeros", lambda zeros: zeros[:1]), r"q_proj.qzeros' has shape"),
    (packers.fp8(), FP8, drop("weight_scale_inv"), "is stored without"),
    (packers.fp8(), FP8, put("weight_scale_inv", with_nan), "weight_scale_inv' holds NaN"),
    (*PACKED, put("weight_shape", lambda shape: shape * 2), "holds no"),
    (*PACKED, put("weight_scale", lambda scales: scales[:, :1]), "expected one scale for each block"),
    (*PACKED, put("weight_scale", with_nan), "weight_scale' holds NaN"),
    (packers.gptq(), GPTQ | {"group_size": 16}, lambda tensors: None, "groups of 16 of .* group_size in the config"),
    (packers.gptq(act_order=True), GPTQ | {"desc_act": True}, drop("g_idx"), "is stored without 'g_idx'"),
    (packers.fp8(), FP8, add("weight_scale", torch.full((2, 2), 5.0)), "stored beside 'weight_scale_inv'"),
    (*PACKED, add("weight_g_idx", torch.linspace(0, 1.99, 64)), r"weight_g_idx' is stored as float32"),
    (*PACKED, add("weight", torch.ones(64, 64)), "stored beside 'weight_packed'"),
    (*PACKED, add("weight_zero_point", torch.zeros(8, 8, dtype=torch.int32)), r"weight_zero_point' has shape"),
    (ASYMMETRIC[0], ASYMMETRIC[1], drop("weight_zero_point"), "is stored without 'weight_zero_point'"),
    (PACKED[0], of_kind("int-quantized", num_bits=8, strategy="channel"), lambda tensors: None, "weight_packed"),
    (PACKED[0], of_kind("pack-quantized", **BLOCK), blocks_of_16, "packed integers do not have"),
    (
        packers.compressed("int-quantized", **W8A8),
        of_kind("int-quantized", **W8A8),
        add("weight_g_idx", torch.zeros(64, dtype=torch.int32)),
        "is of packed integers",
    ),
    (
        packers.compressed("int-quantized", **W8A8),
        of_kind("float-quantized", **W8A8 | {"type": "float"}),
        lambda tensors: None,
        "the config's weights are float of 8 bits",
    ),
    (*NF4, drop("weight.absmax"), "is stored without 'absmax'"),
    (*NF4, put("weight.absmax", lambda scales: scales[1:]), r"absmax' has shape"),
    (*NF4, put("weight.quant_map", with_nan), r"quant_map' holds NaN"),
    (*NF4, put(STATE, lambda state: state[:-1]), "is no JSON"),
    (*NF4, put(STATE, lambda state: state_with(state, shape=[64, 128])), "which holds no"),
    (*NF4, put(STATE, lambda state: state_with(state, blocksize=0)), "has the blocksize 0"),
    (*NF4, put(STATE, lambda state: state_with(state, dtype="int8")), "has the dtype int8"),
    (*PACKED, put("weight_packed", lambda words: words[:, 1:]), "holds no"),
]


@pytest.mark.parametrize(("packer", "section", "change", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage(tmp_path: Path, plain: Path, packer: Any, section: Any, change: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, packer, section)
    edit(folder, change)
    with pytest.raises(CorruptCheckpoint, match=message) as raised:
        QEFFAutoModelForCausalLM.from_pretrained(folder).package_ingredients(target="cpu")
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"quant_method": "exl2", "bits": 4}, UnsupportedModel, "'exl2'.* reads gptq, awq"),
        ({"bits": 4}, UnsupportedModel, r"quantization_config\.quant_method is not there"),
        (GPTQ | {"bits": 5}, UnsupportedModel, r"quantization_config\.bits is 5.* reads 2, 3, 4, 8"),
        (GPTQ | {"bits": "4"}, UnsupportedModel, r"quantization_config\.bits is '4'"),
        (GPTQ | {"checkpoint_format": "marlin"}, UnsupportedModel, "checkpoint_format is 'marlin'"),
        (AWQ | {"version": "exllama"}, UnsupportedModel, "version is 'exllama'"),
        ({"quant_method": "auto-round", "bits": 4}, UnsupportedModel, "packing_format is None"),
        (GPTQ | {"group_size": "banana"}, CorruptCheckpoint, r"group_size is 'banana', expected a whole number"),
        (GPTQ | {"group_size": 0}, CorruptCheckpoint, r"group_size is 0, expected a positive whole number or -1"),
        (AWQ | {"group_size": "32"}, CorruptCheckpoint, r"group_size is '32', expected a whole number"),
        ({"quant_method": "fp8", "weight_block_size": [0, 32]}, CorruptCheckpoint, "weight_block_size is"),
        ({"quant_method": "compressed-tensors"}, CorruptCheckpoint, "config_groups is None, expected an object"),
        ("gptq", CorruptCheckpoint, "quantization_config is 'gptq', expected an object"),
    ],
)
def test_config(tmp_path: Path, plain: Path, section: Any, error: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, packers.gptq(), section)
    with pytest.raises(error, match=message) as raised:
        QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert str(folder / "config.json") in str(raised.value)


def test_a_truncated_file(tmp_path: Path, plain: Path) -> None:
    folder = checkpoint(plain, tmp_path, packers.gptq(), GPTQ)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)


def test_transposed_modules_are_refused(tmp_path: Path) -> None:
    """GPT-2's matrices are stored the other way round, which a square one does not show."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=64, n_layer=1, n_head=2, n_positions=64))
    plain = tiny_models.save(model, tmp_path / "plain")
    chosen = lambda name, tensor: name.endswith("attn.c_proj.weight")  # noqa: E731
    folder, _ = packers.quantize(plain, tmp_path / "quantized", packers.gptq(), GPTQ, chosen=chosen)
    with pytest.raises(UnsupportedModel, match=r"c_proj\.weight.*Conv1D"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)


def test_the_config_beside_the_config(tmp_path: Path, plain: Path) -> None:
    """Repositories older than the section in config.json."""
    folder, dense = packers.quantize(plain, tmp_path / "quantized", packers.gptq(), GPTQ)
    config = json.loads((folder / "config.json").read_text())
    section = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").write_text(
        json.dumps({"bits": section["bits"], "group_size": 32, "desc_act": False})
    )
    model = load_skeleton(AutoModelForCausalLM, folder)
    values = dict(copy_with_values(model).named_parameters())
    assert torch.equal(values[f"{WEIGHT}.weight"], dense[f"{WEIGHT}.weight"])
