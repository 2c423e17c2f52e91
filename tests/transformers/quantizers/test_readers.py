"""Quantised checkpoints load as the dense weights that their format's own arithmetic gives, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized_models as packers
import tiny_models
import torch
from transformers import AutoModelForCausalLM

from QEfficient.exporter import packed_layout
from QEfficient.exporter.transforms import pack_linears
from QEfficient.exporter.weights import Weight
from QEfficient.simulator.passes.packed import _expanded
from QEfficient.transformers.checkpoint.from_checkpoint import copy_with_values, weight_source
from QEfficient.transformers.checkpoint.load import load_model, load_skeleton
from QEfficient.transformers.checkpoint.packed import Packed

AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "int", "sym": True}
CASES = {
    "gptq": (packers.gptq(), {"quant_method": "gptq", "bits": 4}),
    "gptq-48": (packers.gptq(group_size=48), {"quant_method": "gptq", "bits": 4, "group_size": 48}),  # 48 and 16 of 64
    "gptq-2": (packers.gptq(2, symmetric=False), {"quant_method": "gptq", "bits": 2}),
    "gptq-3": (packers.gptq(3, symmetric=False, act_order=True), {"quant_method": "gptq", "bits": 3}),
    "gptq-8-v2": (packers.gptq(8, v2=True), {"quant_method": "gptq", "bits": 8, "checkpoint_format": "gptq_v2"}),
    "awq": (packers.awq(16), {"quant_method": "awq", "bits": 4, "group_size": 16}),
    "gemv": (packers.awq(32, "gemv"), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}),
    "auto-round": (packers.gptq(), AUTO_ROUND | {"packing_format": "auto_round:auto_gptq"}),
    "auto-round-awq": (packers.awq(32), AUTO_ROUND | {"packing_format": "auto_round:auto_awq"}),
    "fp8": (packers.fp8(), {"quant_method": "fp8", "weight_block_size": [32, 32]}),
}
COMPRESSED = {
    "w4a16": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "w4a16-asym": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False}),
    "w3a16": ("pack-quantized", {"num_bits": 3, "strategy": "channel"}),
    "w8a16": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
    "w8a8": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "w8a8-asym": ("int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
    "w8a8-tensor": ("int-quantized", {"num_bits": 8, "strategy": "tensor"}),
    "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8-block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 32]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
    "mxfp6": ("mxfp6-pack-quantized", {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32}),
}
CASES |= {
    f"compressed-{name}": (packers.compressed(layout, **arguments), packers.compressed_section(layout, **arguments))
    for name, (layout, arguments) in COMPRESSED.items()
}

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CASES |= {
    "bitsandbytes-nf4": (packers.bitsandbytes("nf4"), NF4),
    "bitsandbytes-nf4-double": (packers.bitsandbytes("nf4", nested=True), NF4),
    "bitsandbytes-fp4": (packers.bitsandbytes("fp4", block_size=128), NF4),  # blocks of two rows
    "bitsandbytes-int8": (packers.bitsandbytes("int8"), {"load_in_8bit": True}),
}
BITNET = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", "layers.1.mlp.up_proj"]}
TORCHAO = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {}}}}
CASES |= {
    "hqq": (packers.hqq(), {"quant_method": "hqq"}),
    "hqq-8": (packers.hqq(8, 16), {"quant_method": "hqq"}),
    "hqq-3-rows": (packers.hqq(3, 16, axis=0), {"quant_method": "hqq"}),
    "torchao-int4": (packers.torchao("Int4Tensor"), TORCHAO),
    "torchao-intx": (packers.torchao("IntxUnpackedToInt8Tensor", 16), TORCHAO),
    "bitnet": (packers.bitnet(), BITNET),
    "autobitlinear": (packers.bitnet("autobitlinear"), BITNET | {"linear_class": "autobitlinear"}),
}
PACKED = {name for name in CASES if not any(part in name for part in ("fp8", "fp6", "fp4", "nf4", "-rows"))}
"""What the operator holds: integers in groups of columns."""
ROUNDED = {"bitsandbytes-int8": 1e-6, "bitnet": 1e-6, "torchao-int4": 1e-3}
"""What the library multiplies in another order than by one scale, and the relative difference that this makes."""


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_format(tmp_path: Path, case: str) -> None:
    packer, section = CASES[case]
    plain = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path / "plain")
    folder, dense = packers.quantize(plain, tmp_path / "quantized", packer, section)
    model: Any = load_skeleton(AutoModelForCausalLM, folder)
    source = weight_source(model)
    values = dict(copy_with_values(model).named_parameters())
    assert source.packed("model.layers.0.self_attn.q_proj.weight") is not None
    for name, tensor in load_model(AutoModelForCausalLM, folder).named_parameters():
        assert torch.equal(tensor, values[name])
        assert torch.equal(torch.cat(list(source.read(name))).reshape(tensor.shape), tensor)
        expected = dense.get(name, tensor)
        torch.testing.assert_close(tensor, expected, rtol=ROUNDED.get(case, 0), atol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_operator_has_the_same_weights(tmp_path: Path, case: str) -> None:
    packer, section = CASES[case]
    plain = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path / "plain")
    folder, dense = packers.quantize(plain, tmp_path / "quantized", packer, section)
    source = weight_source(load_skeleton(AutoModelForCausalLM, folder))
    for name in source.tensors:
        weight = Weight(source, name, torch.float32)
        operands = pack_linears._operands(weight, packed_layout.layout_of)
        if source.packed(name) is None or case not in PACKED:
            assert operands is None
            continue
        assert operands is not None
        assert all(piece.is_contiguous() for tensor in operands.tensors.values() for piece in tensor.pieces())
        tensors = [tensor.read_whole().numpy() for tensor in operands.tensors.values()]
        layout = operands.layout
        sizes = {"K": layout.num_columns, "N": layout.num_rows, "bits": layout.bits, "block_size": layout.block}
        order = torch.arange(layout.num_columns) if operands.order is None else operands.order
        expected = dense[name].double()[:, order]
        # The operator multiplies in float32; libraries round the product.
        torch.testing.assert_close(torch.from_numpy(elements(tensors, sizes)).double(), expected, atol=1e-6, rtol=2**-7)


def elements(tensors: list[np.ndarray], sizes: dict[str, int]) -> np.ndarray:
    """What the operator multiplies with, [N, K]."""
    octets, scales, *zero_points = tensors
    if not zero_points or zero_points[0].dtype == np.uint8:
        return _expanded(tensors, sizes).T
    offsets = (2 ** (sizes["bits"] - 1) - zero_points[0]) * scales
    return _expanded([octets, scales], sizes).T + offsets.reshape(sizes["N"], -1).repeat(sizes["block_size"], 1)


def test_four_bits_take_little_more() -> None:
    """Of a usual checkpoint: groups of 128 with zero points."""
    layout = packed_layout.layout_of(Packed((4096, 4096), torch.float16, 4, (1, 128), has_zero_points=True))
    assert layout is not None
    num_bytes = 4096 * layout.num_blocks * (layout.block // 2 + 4 + 0.5)
    assert num_bytes / 4096**2 < 0.54
