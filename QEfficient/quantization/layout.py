"""The parts of a quantised weight as compressed-tensors stores them, and their sizes before they are there."""

from __future__ import annotations

import torch

from QEfficient.quantization.rounding import Rounded
from QEfficient.quantization.schemes import Scheme
from QEfficient.transformers.checkpoint.packed import Dense, num_words


def part_sizes(shape: tuple[int, int], scheme: Scheme, dtype: torch.dtype) -> dict[str, Dense]:
    """Shapes and dtypes of a weight's parts, by what follows the module's name."""
    num_rows, num_columns = shape
    rows, columns = scheme.block(num_columns)
    blocks = (-(-num_rows // rows), -(-num_columns // columns))
    if scheme.is_float and scheme.num_bits == 8:
        return {"weight": Dense(shape, torch.float8_e4m3fn), "weight_scale": Dense(blocks, dtype)}
    if scheme.is_float:
        packed = {"weight_packed": Dense((num_rows, num_columns * scheme.num_bits // 8), torch.uint8)}
        if not scheme.has_global_scale:
            return packed | {"weight_scale": Dense(blocks, torch.uint8)}
        scales = {"weight_scale": Dense(blocks, torch.float8_e4m3fn), "weight_global_scale": Dense((1,), torch.float32)}
        return packed | scales
    parts = {
        "weight_packed": Dense((num_rows, num_words(num_columns, scheme.num_bits)), torch.int32),
        "weight_scale": Dense(blocks, dtype),
        "weight_shape": Dense((2,), torch.int64),
    }
    if not scheme.is_symmetric:
        parts["weight_zero_point"] = Dense((num_words(num_rows, scheme.num_bits), blocks[1]), torch.int32)
    return parts


def parts_of(weight: Rounded) -> dict[str, torch.Tensor]:
    """The parts themselves."""
    scales, values = weight.scales, weight.values
    scheme = scales.scheme
    if scheme.is_float and scheme.num_bits == 8:
        return {"weight": values, "weight_scale": scales.stored}
    if scheme.is_float:
        pack = pack_halves if scheme.num_bits == 4 else pack_sixes
        parts = {"weight_packed": pack(values), "weight_scale": scales.stored}
        return parts if scales.global_scale is None else parts | {"weight_global_scale": scales.global_scale}
    parts = {
        "weight_packed": pack_words(values, scheme.num_bits),
        "weight_scale": scales.stored,
        "weight_shape": torch.tensor(values.shape),
    }
    if scales.zero_points is not None:
        parts["weight_zero_point"] = pack_words(scales.zero_points.t(), scheme.num_bits).t().contiguous()
    return parts


def pack_words(values: torch.Tensor, num_bits: int) -> torch.Tensor:
    """int32 words along the last axis, from the lowest bit on; ``num_bits`` of 4 or 8.

    Args:
        values: int8 ``[rows, columns]``, from the lowest integer of so many bits on.
        num_bits: of an integer.
    """
    octets = (values.view(torch.uint8) & (2**num_bits - 1)) ^ 2 ** (num_bits - 1)  # counted from the lowest
    octets = torch.nn.functional.pad(octets, (0, -octets.shape[1] % (32 // num_bits)))
    if num_bits == 4:
        octets = pack_halves(octets)
    return octets.flatten().view(torch.int32).reshape(len(values), -1)


def pack_halves(codes: torch.Tensor) -> torch.Tensor:
    """Two codes of four bits a byte, the first in the low half."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def pack_sixes(codes: torch.Tensor) -> torch.Tensor:
    """Four codes of six bits in three bytes, from the lowest bit on."""
    first, second, third, fourth = codes.unflatten(1, (-1, 4)).unbind(-1)
    octets = (first | (second << 6), (second >> 2) | (third << 4), (third >> 4) | (fourth << 2))
    return torch.stack(octets, -1).flatten(1)
