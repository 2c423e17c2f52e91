"""MXFP4: experts in float4_e2m1 with a power of two for each 32 input features, as gpt-oss stores them.

Parts, for [experts, in, out] elements: ``*_blocks`` [experts, out, in / 32, 16] in uint8, two numbers a byte with the
first in the lower bits, and ``*_scales`` [experts, out, in / 32], exponents to base two plus 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged, unpack_bits
from QEfficient.transformers.quantizers.checks import Section, require_axes, require_dtype, require_parts, require_shape

BLOCK = 32
"""Numbers that share a scale."""
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = torch.tensor([*_POSITIVE, *(-value for value in _POSITIVE)])
"""The numbers of float4_e2m1 by their bits."""
_POSITIVE_6 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2**e for e in range(3) for m in range(8)))
E2M3 = torch.tensor([*_POSITIVE_6, *(-value for value in _POSITIVE_6)])
"""The numbers of float6_e2m3 by their bits."""
_BIAS, _NAN = 127, 255


def unpack_fp4(octets: torch.Tensor) -> torch.Tensor:
    """The numbers of uint8 [..., n] in float32 [..., 2 n], two a byte with the first in the lower bits."""
    return E2M1[unpack_bits(octets, 4, octets.shape[-1] * 2).int()]


def unpack_fp6(octets: torch.Tensor) -> torch.Tensor:
    """The numbers of uint8 [..., 3 n] in float32 [..., 4 n], four in three bytes from the lowest bit on."""
    return E2M3[unpack_bits(octets, 6, octets.shape[-1] * 4 // 3).int()]


def powers_of_two(parts: Parts, name: str, start: int, stop: int) -> torch.Tensor:
    """Rows of a part of float8_e8m0 exponents in uint8, as the numbers that they stand for.

    Raises:
        CorruptCheckpoint: one is NaN.
    """
    exponents = parts.rows(name, start, stop)
    if bool((exponents == _NAN).any()):
        raise parts.error(name, "holds NaN, expected finite numbers")
    return torch.ldexp(torch.ones(exponents.shape), exponents.int() - _BIAS)


@dataclass(frozen=True)
class MXFP4Packing:
    """The weights of all experts of a layer."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        values = unpack_fp4(parts.rows("blocks", start, stop).flatten(-2))
        return PackedRows(values, powers_of_two(parts, "scales", start, stop), None, BLOCK)

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class MXFP4:
    """The format."""

    suffixes: ClassVar[Mapping[str, str]] = {"_blocks": "blocks", "_scales": "scales"}
    dense_suffix: ClassVar[str] = ""

    @classmethod
    def from_config(cls, section: Section) -> MXFP4:
        """The format has no variants."""
        return cls()

    def packing(self, parts: Mapping[str, Stored]) -> MXFP4Packing:
        """How the weights of ``parts`` are packed.

        Raises:
            CorruptCheckpoint: their shapes belong to no weights.
        """
        require_parts(parts, "blocks", "scales")
        blocks, scales = parts["blocks"], parts["scales"]
        require_dtype(blocks, torch.uint8)
        require_dtype(scales, torch.uint8)
        num_experts, num_rows, num_blocks, num_bytes = require_axes(blocks, 4)
        if num_bytes * 2 != BLOCK:
            raise damaged(blocks, f"has blocks of {num_bytes} bytes, expected {BLOCK // 2}")
        require_shape(scales, num_experts, num_rows, num_blocks)
        shape = (num_experts, num_blocks * BLOCK, num_rows)
        return MXFP4Packing(Packed(shape, torch.bfloat16, 4, (1, BLOCK), is_float=True, is_transposed=True))
