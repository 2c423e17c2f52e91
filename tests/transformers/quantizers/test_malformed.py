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
from safetensors import safe_open
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


def edit(folder: Path, change: Callable[[Tensors], None], metadata: dict[str, str] | None = None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata or {"format": "pt"})


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


def number(value: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.tensor(value, dtype=tensor.dtype)


def describe(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change what torchao's header says of one weight."""

    def edit_header(folder: Path) -> None:
        path = folder / "model.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        described = json.loads(metadata[f"{WEIGHT}.weight"])
        changed = change(described)
        metadata[f"{WEIGHT}.weight"] = changed if isinstance(changed, str) else json.dumps(described)
        save_file(load_file(path), path, metadata)

    return edit_header


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
HQQ = (packers.hqq(), {"quant_method": "hqq"})
INT4 = (packers.torchao("Int4Tensor"), {"quant_method": "torchao"})
INTX = (packers.torchao("IntxUnpackedToInt8Tensor"), {"quant_method": "torchao"})
QDATA = "_weight_qdata"
BITNET = (
    packers.bitnet(),
    {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", "layers.1.mlp.up_proj"]},
)
DAMAGE = [
    (packers.gptq(), GPTQ, drop("scales"), r"q_proj.* is stored without 'scales'"),
    (packers.gptq(), GPTQ, drop("qweight"), r"q_proj.* is stored without 'qweight'"),
    (packers.gptq(), GPTQ, put("scales", lambda scales: scales[:, :-1]), r"q_proj.qweight' has shape"),
    (packers.gptq(), GPTQ, put("scales", lambda scales: scales[:1]), r"q_proj.qzeros' has shape"),
    (packers.gptq(), GPTQ, put("qweight", lambda words: words[:-1]), r"q_proj.*shape|groups"),
    (packers.gptq(), GPTQ, put("qzeros", lambda zeros: zeros.float()), r"q_proj.qzeros' is stored as float32"),
    (packers.gptq(), GPTQ, put("scales", with_nan), r"q_proj.scales' holds NaN"),
    (packers.gptq(), GPTQ | {"bits": 8}, lambda tensors: None, r"has shape .* expected .* bits in the config"),
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
    (*NF4, put(STATE, lambda state: state[:-1]), "is not JSON"),
    (*NF4, put(STATE, lambda state: state_with(state, shape=[64, 128])), "which holds no"),
    (*NF4, put(STATE, lambda state: state_with(state, blocksize=0)), "has the blocksize 0"),
    (*NF4, put(STATE, lambda state: state_with(state, dtype="int8")), "has the dtype int8"),
    (*PACKED, put("weight_packed", lambda words: words[:, 1:]), "holds no"),
    (*HQQ, drop("scale"), "is stored without 'scale'"),
    (*HQQ, drop("W_q"), "is stored without 'W_q'"),
    (*HQQ, put("zero", with_nan), "zero' holds NaN"),
    (*HQQ, put("W_q", lambda words: words[1:]), r"W_q' has shape .* holds no \(128, 32\) of 4 bits"),
    (*HQQ, put("W_q", lambda words: words.to(torch.int32)), "W_q' is stored as int32"),
    (*HQQ, put("group_size", number(16)), r"scale' has shape \(128, 1\), expected \(256, 1\)"),
    (*HQQ, put("group_size", number(0)), "group_size' is 0, which does not divide 4096"),
    (*HQQ, put("axis", number(0)), r"scale' has shape \(128, 1\), expected \(1, 128\)"),
    (*HQQ, put("axis", number(2)), "axis' is 2, expected 0 or 1"),
    (*HQQ, put("shape", lambda shape: -shape), "shape' holds .* expected 2 positive sizes"),
    (*HQQ, put("nbits", lambda nbits: nbits.float() * 2), "nbits' is 8.0, and 4bit_u8 is of 4 bits"),
    (*INT4, put(QDATA, lambda octets: octets[1:]), r"weight' in the file's __metadata__, which has the shape"),
    (*INT4, put("_weight_scale", lambda scales: scales[:1]), r"_weight_scale' has shape"),
    (*INT4, put("_weight_scale", torch.zeros_like), "_weight_scale' holds zeros"),
    (*INT4, put("_weight_zero_point", with_nan), "_weight_zero_point' holds NaN"),
    (*INT4, drop("_weight_zero_point"), "is stored without 'zero_point'"),
    (*INT4, add("_weight_per_tensor_scale", torch.ones(1)), "per_tensor_scale' is not part of"),
    (*INTX, put(QDATA, lambda octets: octets + 9), "_weight_qdata' has integers from"),
    (*INTX, put("_weight_zero_point", lambda zeros: zeros + 99), "_weight_zero_point' has integers from"),
    (*BITNET, drop("weight_scale"), "is stored without 'weight_scale'"),
    (*BITNET, put("weight", lambda octets: octets.int()), "weight' is stored as int32, expected uint8"),
    (*BITNET, put("weight", lambda octets: octets | 3), "weight' holds integers of 2"),
    (*BITNET, put("weight_scale", torch.zeros_like), "weight_scale' is zero"),
    (*BITNET, put("weight_scale", lambda scale: scale * torch.nan), "weight_scale' holds NaN"),
    (*BITNET, put("weight_scale", lambda scale: scale.repeat(64)), r"weight_scale' has shape \(64,\), expected \(1,\)"),
    (BITNET[0], {"quant_method": "bitnet"}, lambda tensors: None, "layers.1.mlp.up_proj', whose weight is not ternary"),
]


@pytest.mark.parametrize(("packer", "section", "change", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage(tmp_path: Path, plain: Path, packer: Any, section: Any, change: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, packer, section)
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    edit(folder, change, metadata)
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
        (BITNET[1] | {"quantization_mode": "online"}, UnsupportedModel, "quantization_mode is 'online'"),
        (BITNET[1] | {"use_rms_norm": True}, UnsupportedModel, "use_rms_norm is True"),
        (BITNET[1] | {"linear_class": "b1"}, UnsupportedModel, "linear_class is 'b1'"),
        (BITNET[1] | {"modules_to_not_convert": "a"}, CorruptCheckpoint, "modules_to_not_convert is 'a'"),
    ],
)
def test_config(tmp_path: Path, plain: Path, section: Any, error: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, packers.gptq(), section)
    with pytest.raises(error, match=message) as raised:
        QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert str(folder / "config.json") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: "{", CorruptCheckpoint, "which is not JSON"),
        (lambda text: "[" * 4000, CorruptCheckpoint, "which is not JSON"),
        (lambda text: " " * 5000, CorruptCheckpoint, "which is missing or long"),
        (lambda text: "[]", CorruptCheckpoint, "which has the _tensor_data_names None"),
        (lambda text: text.update(_tensor_data_names=["qdata", 1]), CorruptCheckpoint, "expected a list of names"),
        (lambda text: text.update(_type="NVFP4Tensor"), UnsupportedModel, "is of 'NVFP4Tensor'.* reads Int8Tensor"),
        (lambda text: text.update(_data={}), CorruptCheckpoint, "has the target_dtype 'None', expected int1 to int8"),
        (lambda text: text["_data"].update(dtype=7), CorruptCheckpoint, "has the dtype '7', expected float16"),
        (lambda text: text["_data"].update(block_size=[1, 7]), CorruptCheckpoint, r"\[1, 7\], which does not divide"),
        (lambda text: text["_data"].update(block_size=[1, 16]), CorruptCheckpoint, r"scale' has shape .* \(64, 4\)"),
    ],
)
def test_a_description_of_torchao(tmp_path: Path, plain: Path, change: Any, error: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, *INTX)
    describe(change)(folder)
    with pytest.raises(error, match=message) as raised:
        QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert f"{folder / 'model.safetensors'}: '{WEIGHT}._weight_" in str(raised.value)


def test_files_without_descriptions(tmp_path: Path, plain: Path) -> None:
    folder = checkpoint(plain, tmp_path, *INTX)
    edit(folder, lambda tensors: None)
    with pytest.raises(CorruptCheckpoint, match=r"_weight_qdata' is described by .* which is missing"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("packer", "section", "change", "message"),
    [
        (*HQQ, put("packing", lambda text: text[1:]), "packing' is 'bit_u8', and this version reads 8bit_u8"),
        (*HQQ, put("quant_scale", number(1)), "quant_scale' is true, and this version reads no"),
        (*HQQ, put("group_size", number(128)), "group_size' is 128, and this version reads no groups that"),
    ],
)
def test_unread_variants(tmp_path: Path, plain: Path, packer: Any, section: Any, change: Any, message: str) -> None:
    folder = checkpoint(plain, tmp_path, packer, section)
    edit(folder, change)
    with pytest.raises(UnsupportedModel, match=message) as raised:
        QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert str(folder) in str(raised.value)


def test_weights_that_are_not_ternary(tmp_path: Path, plain: Path) -> None:
    """A model of layers that round their inputs, and not the same one without the rounding."""
    folder, _ = packers.quantize(plain, tmp_path / "quantized", *BITNET, chosen=lambda name, tensor: False)
    with pytest.raises(CorruptCheckpoint, match=r"config\.json: modules_to_not_convert does not name"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)


def test_ternary_weights_of_layers_with_biases(tmp_path: Path) -> None:
    """transformers multiplies these biases by the weight's scale."""
    model = tiny_models.causal_lm("llama", attention_bias=True)
    plain = tiny_models.save(model, tmp_path / "plain")
    section = BITNET[1] | {"linear_class": "autobitlinear"}
    folder, _ = packers.quantize(plain, tmp_path / "quantized", packers.bitnet("autobitlinear"), section)
    with pytest.raises(UnsupportedModel, match="layer with a bias"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)


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
