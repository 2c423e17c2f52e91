"""ggml's blocks: numbers of 2 to 8 bits with half-precision scales, those of K-quants in two levels.

Each function takes blocks as uint8 [..., blocks, bytes] and gives numbers [..., blocks, elements], scales and, where a
type has them, minimums [..., blocks, groups]. Scales are products of a half and a small integer: exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

_Decoded = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
_IQ4_LEVELS = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8)


@dataclass(frozen=True)
class BlockType:
    """How a type stores a block."""

    num_bits: int
    """Of a number, once it is unpacked."""
    lowest: int
    """The lowest number."""
    group_size: int
    """Elements that share a scale."""
    decode: Callable[[torch.Tensor], _Decoded]
    scales: torch.dtype = torch.float16
    """The smallest dtype that has all scales."""
    has_minimums: bool = False


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """A half-precision number of each block, in float32."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).float()


def _fields(octets: torch.Tensor, num_bits: int, run: int) -> torch.Tensor:
    """Small numbers of bytes, of each ``run`` bytes first the lowest bits of all, then the next."""
    shifts = torch.arange(0, 8, num_bits, dtype=torch.uint8).unsqueeze(-1)
    runs = octets.unflatten(-1, (-1, 1, run))
    return ((runs >> shifts) & (2**num_bits - 1)).flatten(-3)


def _bits(octets: torch.Tensor) -> torch.Tensor:
    """The bits of bytes, each byte's lowest first."""
    return ((octets.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)


def _q4_0(blocks: torch.Tensor) -> _Decoded:
    return _fields(blocks[..., 2:18], 4, 16).to(torch.int8) - 8, _half(blocks, 0), None


def _q4_1(blocks: torch.Tensor) -> _Decoded:
    return _fields(blocks[..., 4:20], 4, 16), _half(blocks, 0), -_half(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> _Decoded:
    numbers = _fields(blocks[..., 6:22], 4, 16) | (_bits(blocks[..., 2:6]) << 4)
    return numbers.to(torch.int8) - 16, _half(blocks, 0), None


def _q5_1(blocks: torch.Tensor) -> _Decoded:
    numbers = _fields(blocks[..., 8:24], 4, 16) | (_bits(blocks[..., 4:8]) << 4)
    return numbers, _half(blocks, 0), -_half(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> _Decoded:
    return blocks[..., 2:34].view(torch.int8), _half(blocks, 0), None


def _q2_k(blocks: torch.Tensor) -> _Decoded:
    levels = blocks[..., :16]
    numbers = _fields(blocks[..., 16:80], 2, 32)
    return numbers, _half(blocks, 80) * (levels & 15), _half(blocks, 82) * (levels >> 4)


def _q3_k(blocks: torch.Tensor) -> _Decoded:
    low = _fields(blocks[..., 32:96], 2, 32).to(torch.int8)
    high = _fields(blocks[..., :32], 1, 32).to(torch.int8)
    levels = blocks[..., 96:108]
    scales = _fields(levels[..., :8], 4, 8) | (_fields(levels[..., 8:], 2, 4) << 4)
    return low - (1 - high) * 4, _half(blocks, 108) * (scales.to(torch.int8) - 32), None


def _levels_of_6_bits(octets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minimums of Q4_K and Q5_K: four whole ones each, then four in nibbles and the bits left over."""
    scales, minimums, nibbles = octets.unflatten(-1, (3, 4)).unbind(-2)
    return (
        torch.cat([scales & 63, (nibbles & 15) | ((scales >> 2) & 48)], -1),
        torch.cat([minimums & 63, (nibbles >> 4) | ((minimums >> 2) & 48)], -1),
    )


def _q4_k(blocks: torch.Tensor) -> _Decoded:
    scales, minimums = _levels_of_6_bits(blocks[..., 4:16])
    return _fields(blocks[..., 16:144], 4, 32), _half(blocks, 0) * scales, _half(blocks, 2) * minimums


def _q5_k(blocks: torch.Tensor) -> _Decoded:
    scales, minimums = _levels_of_6_bits(blocks[..., 4:16])
    numbers = _fields(blocks[..., 48:176], 4, 32) | (_fields(blocks[..., 16:48], 1, 32) << 4)
    return numbers, _half(blocks, 0) * scales, _half(blocks, 2) * minimums


def _q6_k(blocks: torch.Tensor) -> _Decoded:
    numbers = _fields(blocks[..., :128], 4, 64) | (_fields(blocks[..., 128:192], 2, 32) << 4)
    return numbers.to(torch.int8) - 32, _half(blocks, 208) * blocks[..., 192:208].view(torch.int8), None


def _iq4_nl(blocks: torch.Tensor) -> _Decoded:
    return _IQ4_LEVELS[_fields(blocks[..., 2:18], 4, 16).int()], _half(blocks, 0), None


_PRODUCT = torch.float32
TYPES = {
    "Q4_0": BlockType(4, -8, 32, _q4_0),
    "Q4_1": BlockType(4, 0, 32, _q4_1, has_minimums=True),
    "Q5_0": BlockType(5, -16, 32, _q5_0),
    "Q5_1": BlockType(5, 0, 32, _q5_1, has_minimums=True),
    "Q8_0": BlockType(8, -128, 32, _q8_0),
    "Q2_K": BlockType(2, 0, 16, _q2_k, _PRODUCT, has_minimums=True),
    "Q3_K": BlockType(3, -4, 16, _q3_k, _PRODUCT),
    "Q4_K": BlockType(4, 0, 32, _q4_k, _PRODUCT, has_minimums=True),
    "Q5_K": BlockType(5, 0, 32, _q5_k, _PRODUCT, has_minimums=True),
    "Q6_K": BlockType(6, -32, 16, _q6_k, _PRODUCT),
    "IQ4_NL": BlockType(8, -128, 32, _iq4_nl),
}
"""Those whose numbers are integers on a line; the others are expanded by the format's library."""
