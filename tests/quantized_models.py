"""Quantised tiny checkpoints, written by packers that share nothing with the readers: integer by integer, by the
layouts that the formats publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Packed = tuple[dict[str, Any], torch.Tensor]
"""The parts by their endings, and the dense weight that they stand for."""
Packer = Callable[[torch.Tensor], Packed]


def packed_words(values: np.ndarray, bits: int) -> torch.Tensor:
    """int32 words along the last axis, from one long number per row."""
    num_words = -(-values.shape[-1] * bits // 32)
    rows = []
    for row in values.reshape(-1, values.shape[-1]).tolist():
        number = sum(value << (bits * place) for place, value in enumerate(row))
        rows.append(np.frombuffer(number.to_bytes(num_words * 4, "little"), "<i4"))
    return torch.from_numpy(np.stack(rows).reshape(*values.shape[:-1], num_words).copy())


def with_few_bits(numbers: np.ndarray) -> np.ndarray:
    """Rounded to four bits, so that an integer of six times such a scale is exact in float16."""
    mantissa, exponent = np.frexp(numbers)
    return np.ldexp(np.ceil(mantissa * 16) / 16, exponent)


def rounded(
    weight: torch.Tensor, bits: int, group: np.ndarray, symmetric: bool, few_bits: bool = False
) -> tuple[np.ndarray, ...]:
    """Integers [out, in], zero points and float16 scales [out, groups], each column in its group."""
    dense, most = weight.double().numpy(), 2**bits - 1
    num_groups = int(group.max()) + 1
    scales = np.empty((dense.shape[0], num_groups), np.float16)
    zeros = np.empty(scales.shape, np.int64)
    values = np.empty(dense.shape, np.int64)
    for number in range(num_groups):
        part = dense[:, group == number]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            low, high = -np.maximum(-low, high), np.maximum(-low, high)
        scales[:, number] = with_few_bits((high - low) / most) if few_bits else (high - low) / most
        scale = scales[:, number].astype(np.float64)
        zeros[:, number] = 2 ** (bits - 1) if symmetric else np.clip(np.rint(-low / scale), 0, most)
        values[:, group == number] = np.clip(np.rint(part / scale[:, None]) + zeros[:, [number]], 0, most)
    return values, zeros, scales


def expanded(values: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: np.ndarray) -> torch.Tensor:
    """As the formats' libraries do it, in float16."""
    return torch.from_numpy((values - zeros[:, group]).astype(np.float16) * scales[:, group])


def gptq(
    bits: int = 4,
    group_size: int = 32,
    symmetric: bool = True,
    act_order: bool = False,
    v2: bool = False,
    few_bits: bool = False,
) -> Packer:
    """AutoGPTQ's layout."""

    def pack(weight: torch.Tensor) -> Packed:
        group = np.arange(weight.shape[1]) // group_size
        if act_order:
            group = np.random.default_rng(0).permutation(group)
        values, zeros, scales = rounded(weight, bits, group, symmetric, few_bits)
        stored = zeros if v2 else (zeros - 1) % 2**bits
        parts = {
            ".qweight": packed_words(values, bits).T.contiguous(),
            ".qzeros": packed_words(stored.T, bits),
            ".scales": torch.from_numpy(scales.T.copy()),
        }
        if act_order:
            parts[".g_idx"] = torch.from_numpy(group.astype(np.int32))
        return parts, expanded(values, zeros, scales, group)

    return pack


def _awq_words(values: np.ndarray) -> torch.Tensor:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return packed_words(values.reshape(len(values), -1, 8)[..., order].reshape(values.shape), 4)


def awq(group_size: int = 32, version: str = "gemm", few_bits: bool = False) -> Packer:
    """AutoAWQ's layouts."""

    def pack(weight: torch.Tensor) -> Packed:
        group = np.arange(weight.shape[1]) // group_size
        values, zeros, scales = rounded(weight, 4, group, symmetric=False, few_bits=few_bits)
        dense = expanded(values, zeros, scales, group)
        if version == "gemm":
            parts = {".qweight": _awq_words(values.T), ".qzeros": _awq_words(zeros.T)}
            return {**parts, ".scales": torch.from_numpy(scales.T.copy())}, dense
        multiple = 8 * {64: 2, 32: 4}.get(group_size, 1)
        padding = ((0, 0), (0, -zeros.shape[1] % multiple))
        zeros, scales = np.pad(zeros, padding), np.pad(scales, padding)
        parts = {".qweight": packed_words(values, 4), ".qzeros": packed_words(zeros, 4)}
        return {**parts, ".scales": torch.from_numpy(scales)}, dense

    return pack


def fp8(block: tuple[int, int] | None = (32, 32), scale_dtype: torch.dtype = torch.float32) -> Packer:
    """DeepSeek's layout, or one scale for a weight."""

    def pack(weight: torch.Tensor) -> Packed:
        rows, columns = block or tuple(weight.shape)
        num_rows, num_columns = weight.shape
        scales = torch.empty(-(-num_rows // rows), -(-num_columns // columns), dtype=scale_dtype)
        stored = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
        dense = torch.empty(weight.shape)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                place = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
                scales[i, j] = weight[place].abs().max() / 448
                stored[place] = (weight[place] / scales[i, j].float()).to(torch.float8_e4m3fn)
                dense[place] = stored[place].float() * scales[i, j].float()
        parts = {".weight": stored, ".weight_scale_inv": scales if block else scales.reshape(())}
        return parts, dense.to(scale_dtype)

    return pack


def compressed(layout: str, **arguments: Any) -> Packer:
    """The library compressed-tensors, with its own dequantisation.

    Args:
        layout: a name of its CompressionFormat.
        arguments: of its QuantizationArgs.
    """
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(layout)

    def pack(weight: torch.Tensor) -> Packed:
        rows, columns = args.block_structure or (1, args.group_size or weight.shape[1])
        if args.strategy == "tensor":
            rows = weight.shape[0]
        blocks = weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        state = {"weight": weight}
        if layout.startswith("nvfp4"):
            state["weight_global_scale"] = generate_gparam(weight.min(), weight.max()).reshape(1)
        scale, zero_point = calculate_qparams(low, high, args, global_scale=state.get("weight_global_scale"))
        if args.strategy == "tensor":
            scale, zero_point = scale.reshape(1), zero_point.reshape(1)
        state |= {"weight_scale": scale, "weight_zero_point": zero_point}
        parts = compressor.compress(state, scheme)
        dense = compressor.decompress(parts, scheme)["weight"]
        return {f".{name}": part for name, part in parts.items()}, dense

    return pack


def compressed_section(layout: str, **arguments: Any) -> dict[str, Any]:
    """The config's section for :func:`compressed`."""
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, "dynamic": False, **arguments}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


def bitsandbytes(kind: str, nested: bool = False, block_size: int = 64) -> Packer:
    """The library bitsandbytes: "nf4" or "fp4", with its own dequantisation, or "int8" with the published one."""
    from bitsandbytes import functional

    def pack(weight: torch.Tensor) -> Packed:
        if kind == "int8":
            values, scales, _ = functional.int8_vectorwise_quant(weight.half())
            parts = {".weight": values, ".SCB": scales, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
            return parts, functional.int8_vectorwise_dequant(values, scales)
        stored, state = functional.quantize_4bit(
            weight, blocksize=block_size, quant_type=kind, compress_statistics=nested
        )
        parts = {".weight": stored, **{f".weight.{name}": part for name, part in state.as_dict(packed=True).items()}}
        # A row for each block: on AVX-512, bitsandbytes 0.50 misreads blocks that lie across rows.
        state.shape = torch.Size((weight.numel() // block_size, block_size))
        return parts, functional.dequantize_4bit(stored, state).reshape(weight.shape)

    return pack


def hqq(bits: int = 4, group_size: int = 32, axis: int = 1, few_bits: bool = False) -> Packer:
    """HQQLinear's layout, with zero points in steps of a half, and without its search for scales."""
    name, per_word = {8: ("8bit_u8", 1), 4: ("4bit_u8", 2), 3: ("3bit_32", 10), 2: ("2bit_u8", 4)}[bits]

    def pack(weight: torch.Tensor) -> Packed:
        groups = weight.double().numpy().reshape((-1, group_size) if axis == 1 else (group_size, -1))
        low, high = groups.min(axis, keepdims=True), groups.max(axis, keepdims=True)
        scales = (high - low) / (2**bits - 1)
        scales = (with_few_bits(scales) if few_bits else scales).astype(np.float16)
        zeros = (np.rint(-low / scales * 2) / 2).astype(np.float16)
        values = np.clip(np.rint(groups / scales + zeros), 0, 2**bits - 1).astype(np.int64)
        dense = (values - zeros.astype(np.float32)) * scales.astype(np.float32)
        num_words = -(-len(values) // per_word)
        pieces = np.zeros((per_word * num_words, values.shape[1]), np.int64)
        pieces[: len(values)] = values
        pieces = pieces.reshape(per_word, num_words, -1)
        words = sum(piece << ((per_word - 1 - place) * bits) for place, piece in enumerate(pieces))
        numbers = {"nbits": bits, "group_size": group_size, "axis": axis}
        flags = {"quant_scale": 0, "quant_zero": 0, "view_as_float": 0}
        parts = {
            "W_q": torch.from_numpy(np.asarray(words).astype(np.int32 if bits == 3 else np.uint8)),
            "scale": torch.from_numpy(scales),
            "zero": torch.from_numpy(zeros),
            "shape": torch.tensor(weight.shape),
            "packing": torch.tensor([*name.encode()], dtype=torch.uint8),
            **{key: torch.tensor(number, dtype=torch.int32) for key, number in numbers.items()},
            **{key: torch.tensor(flag, dtype=torch.uint8) for key, flag in flags.items()},
        }
        return {f".{key}": part for key, part in parts.items()}, torch.from_numpy(dense).reshape(weight.shape).half()

    return pack


def torchao(kind: str, group_size: int = 32, few_bits: bool = False) -> Packer:
    """torchao's layouts: "Int4Tensor", or "IntxUnpackedToInt8Tensor" of 4 bits. The description is a part as well,
    which :func:`quantize` puts where it belongs."""
    is_nibbles = kind == "Int4Tensor"

    def pack(weight: torch.Tensor) -> Packed:
        group = np.arange(weight.shape[1]) // group_size
        values, zeros, scales = rounded(weight, 4, group, symmetric=False, few_bits=few_bits)
        dense = expanded(values, zeros, scales, group)
        integers = torch.from_numpy(values - 8).to(torch.int8)
        of_torch = {"_type": "torch.dtype", "_data": "float16"}
        data: dict[str, Any] = {"block_size": [1, group_size]}
        if is_nibbles:
            octets = (values[:, 0::2] ^ 8) | ((values[:, 1::2] ^ 8) << 4)
            offsets = ((8 - zeros) * scales.astype(np.float64)).astype(np.float16)
            stored = (torch.from_numpy(octets.astype(np.uint8)).view(torch.int8), scales.T.copy(), offsets.T.copy())
            elements = (values - 8) * scales.astype(np.float32)[:, group] + offsets[:, group]
            dense = torch.from_numpy(elements.astype(np.float16))
            data |= {"activation_dtype": {**of_torch, "_data": "bfloat16"}, "shape": [*weight.shape]}
        else:
            stored = (integers, scales, (zeros - 8).astype(np.int8))
            data |= {"target_dtype": {**of_torch, "_data": "int4"}, "dtype": of_torch, "activation_quantization": None}
        names = ("qdata", "scale", "zero_point")
        parts = {f"._weight_{name}": torch.as_tensor(part) for name, part in zip(names, stored, strict=True)}
        return parts | {DESCRIPTION: {"_type": kind, "_data": data, "_tensor_data_names": names}}, dense

    return pack


def bitnet(linear_class: str = "bitlinear", few_bits: bool = False) -> Packer:
    """BitNet's layout, of either of transformers' layers."""

    def pack(weight: torch.Tensor) -> Packed:
        scale = np.float32(with_few_bits(weight.abs().mean().double().numpy())) if few_bits else weight.abs().mean()
        scale = torch.as_tensor(scale).reshape(1)
        values = (weight / scale).round().clamp(-1, 1)
        quarters = (values + 1).to(torch.uint8).reshape(4, -1, weight.shape[1])
        octets = quarters[0] | (quarters[1] << 2) | (quarters[2] << 4) | (quarters[3] << 6)
        stored = scale if linear_class == "autobitlinear" else 1 / scale
        return {".weight": octets, ".weight_scale": stored}, values * scale

    return pack


DESCRIPTION = "__metadata__"
"""A part that is text of the header."""


def is_linear(name: str, tensor: torch.Tensor) -> bool:
    """What quantising libraries convert: all linear weights but the head, and here one more that is left out."""
    is_matrix = tensor.ndim == 2 and name.endswith(".weight")
    return is_matrix and not any(
        part in name for part in ("emb", "shared", "bias", "lm_head", "gate.weight", "layers.1.mlp.up_proj")
    )


def quantize(
    folder: Path,
    target: Path,
    packer: Packer,
    section: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    chosen: Callable[[str, torch.Tensor], bool] = is_linear,
) -> tuple[Path, dict[str, torch.Tensor]]:
    """Write the checkpoint in ``folder`` once more, quantised; returns its folder and its dense weights."""
    target.mkdir(parents=True)
    stored: dict[str, torch.Tensor] = {}
    dense: dict[str, torch.Tensor] = {}
    metadata = {"format": "pt"}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not chosen(name, tensor):
            stored[name] = dense[name] = tensor
            continue
        parts, dense[name] = packer(tensor)
        if DESCRIPTION in parts:
            metadata[name] = json.dumps(parts.pop(DESCRIPTION))
        stored |= {name.removesuffix(".weight") + ending: part.contiguous() for ending, part in parts.items()}
    save_file(stored, target / "model.safetensors", metadata=metadata)
    for path in (path for path in folder.iterdir() if path.suffix in (".json", ".jinja")):
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": section, "dtype": str(dtype).removeprefix("torch.")}
    (target / "config.json").write_text(json.dumps(config))
    return target, {name: tensor.to(dtype) for name, tensor in dense.items()}


def save_dense(plain: Path, folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """The checkpoint that a quantised one stands for, for Hugging Face."""
    shutil.copytree(plain, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_POSITIVE = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4() -> Packer:
    """gpt-oss's layout of the experts' matrices [experts, in, out], for in and out of multiples of 32."""

    def pack(weight: torch.Tensor) -> Packed:
        rows = weight.double().transpose(1, 2).numpy()  # [experts, out, in]
        blocks = rows.reshape(*rows.shape[:2], -1, 32)
        exponents = np.floor(np.log2(np.abs(blocks).max(-1))) - 2
        scaled = blocks / 2.0 ** exponents[..., None]
        nearest = np.abs(np.abs(scaled)[..., None] - _POSITIVE).argmin(-1)
        codes = (nearest + 8 * (scaled < 0)).astype(np.uint8)
        values = np.where(scaled < 0, -1, 1) * _POSITIVE[nearest] * 2.0 ** exponents[..., None]
        octets = codes[..., 0::2] | (codes[..., 1::2] << 4)
        parts = {"_blocks": torch.from_numpy(octets), "_scales": torch.from_numpy((exponents + 127).astype(np.uint8))}
        return parts, torch.from_numpy(values.reshape(rows.shape)).transpose(1, 2).to(torch.bfloat16).contiguous()

    return pack


def is_expert(name: str, tensor: torch.Tensor) -> bool:
    """What gpt-oss stores in MXFP4."""
    return tensor.ndim == 3 and name.endswith("_proj")
