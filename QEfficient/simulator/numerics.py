"""The card's number formats: rounding of float values to them.

All functions take and return float32. The block formats keep one power-of-two scale for 32 values along an axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK = 32
FP16_MAX = 65504.0
MX_VARIANTS = ("aic", "ocp")

MXFP6_BITS = 6.25
"""Bits per weight, its share of the scale included."""

_SCALE_MIN, _SCALE_MAX = -127, 127
# E2M3: two exponent bits with bias 1, three mantissa bits, no codes for inf or NaN.
_E2M3_EMAX, _E2M3_MANTISSA, _E2M3_MAX = 2, 3, 7.5
_INT8_MAX, _INT8_FRACTION = 127, 64


def round_fp16(values: NDArray) -> Array:
    """Float values rounded to fp16: nearest, ties to even; beyond ±65504 infinite, below 2⁻²⁵ zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def round_bf16(values: NDArray) -> Array:
    """Float values rounded to bfloat16."""
    return from_bf16_bits(to_bf16_bits(values))


def to_bf16_bits(values: NDArray) -> NDArray[np.uint16]:
    """The upper half of float32, rounded to nearest, ties to even."""
    values = np.ascontiguousarray(values, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Rounding up could carry a NaN's mantissa into the sign.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bf16_bits(bits: NDArray[np.uint16]) -> Array:
    """float32 of bfloat16 bits."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def round_mxfp6(values: NDArray, axis: int, variant: str = "aic") -> Array:
    """A matmul's constant rounded to MXFP6 (E2M3) in blocks of 32 along ``axis``.

    Args:
        values: weights of any shape; the last block may be shorter.
        axis: the axis that the matmul contracts.
        variant: "aic" scales as the published error figures of the card imply: the largest value of a block uses
            half of E2M3's range. "ocp" is the OCP MX 1.0 rule, one bit finer.

    Raises:
        ValueError: unknown variant.
    """
    if variant not in MX_VARIANTS:
        raise ValueError(f"MXFP6 variant is {variant!r}; expected one of {', '.join(MX_VARIANTS)}")
    headroom = _E2M3_EMAX - (variant == "aic")
    blocks, restore = _blocks(values, axis)
    scale = _scale(blocks, headroom)
    scaled = blocks / scale
    exponent = np.maximum(_exponent(scaled), 0)  # below 1 the grid stays that of 1: E2M3's subnormals
    step = np.ldexp(np.float32(1), exponent - _E2M3_MANTISSA)
    return restore(np.clip(np.rint(scaled / step) * step, -_E2M3_MAX, _E2M3_MAX) * scale)


def round_mxint8(values: NDArray, axis: int = -1) -> Array:
    """Float values rounded to MXINT8 (int8 × 2⁻⁶ × scale) in blocks of 32 along ``axis``."""
    blocks, restore = _blocks(values, axis)
    scale = _scale(blocks, 0)
    return restore(np.clip(np.rint(blocks / scale * _INT8_FRACTION), -_INT8_MAX, _INT8_MAX) / _INT8_FRACTION * scale)


def _blocks(values: NDArray, axis: int) -> tuple[Array, _Restore]:
    """``[..., number of blocks, 32]`` with zeros at the end, and the way back."""
    moved = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    length = moved.shape[-1]
    padding = [(0, 0)] * (moved.ndim - 1) + [(0, -length % BLOCK)]
    padded = np.pad(moved, padding) if length % BLOCK else moved
    return padded.reshape(*moved.shape[:-1], -1, BLOCK), _Restore(axis, padded.shape, length)


class _Restore:
    def __init__(self, axis: int, shape: tuple[int, ...], length: int):
        self.axis, self.shape, self.length = axis, shape, length

    def __call__(self, blocks: NDArray) -> Array:
        flat = blocks.reshape(self.shape)[..., : self.length]
        return np.ascontiguousarray(np.moveaxis(flat, -1, self.axis), dtype=np.float32)


def _scale(blocks: Array, headroom: int) -> Array:
    """One power of two per block, ``[..., 1]``: that of its largest value, less ``headroom``."""
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    exponent = np.where(largest > 0, _exponent(largest) - headroom, 0)
    return np.ldexp(np.float32(1), np.clip(exponent, _SCALE_MIN, _SCALE_MAX))


def _exponent(values: Array) -> NDArray[np.int32]:
    """floor(log2 |v|); 0 has -1."""
    return np.frexp(values)[1] - 1
