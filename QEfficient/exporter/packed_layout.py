"""Packed weights as operators store them: unsigned integers of 4 or 8 bits in blocks of columns, scales, zero points.

It knows the neutral packed form, and neither the formats of checkpoints nor graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from typing import Literal

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows
from QEfficient.transformers.checkpoint.source import WeightSource

LayoutOf = Callable[[Packed], "Layout | None"]
_BLOCKS = (16, 256)
"""Smallest and largest power of two that operators take as a block."""
ZeroPoints = Literal["none", "integer", "real"]


@dataclass(frozen=True)
class Layout:
    """A weight as the operator stores it: unsigned integers in blocks along the input features."""

    num_rows: int
    num_columns: int
    bits: int
    """4 or 8; fewer are widened."""
    block: int
    """Columns that share a scale: a power of two that divides the checkpoint's groups."""
    zero_points: ZeroPoints
    """Without them, they are in the middle."""
    offset: int
    """Added to the checkpoint's integers and zero points."""
    scales: torch.dtype = torch.float32

    @property
    def num_blocks(self) -> int:
        """Of a row."""
        return self.num_columns // self.block

    @property
    def num_bytes(self) -> int:
        """Of integers, scales and zero points."""
        zero_point_bits = {"none": 0, "integer": self.bits, "real": 32}[self.zero_points]
        bits = self.num_columns * self.bits + self.num_blocks * (8 * self.scales.itemsize + zero_point_bits)
        return self.num_rows * bits // 8


def layout_of(form: Packed) -> Layout | None:
    """How the operator stores a weight for OpenVINO's kernels; None where it cannot."""
    if form.is_float or form.is_transposed or len(form.shape) != 2 or form.num_bits > 8:
        return None
    num_rows, num_columns = form.shape
    bits = 4 if form.num_bits <= 4 else 8
    has_real = form.has_real_zero_points or form.has_minimums
    zero_points: ZeroPoints = "real" if has_real else "integer" if form.has_zero_points else "none"
    common = gcd(num_columns, form.block[1])
    block = min(common & -common, _BLOCKS[1])
    if zero_points == "integer" and bits == 4 and num_columns // block % 2:
        block //= 2  # a row's zero points fill whole bytes
    if block < _BLOCKS[0]:
        return None
    offset = 2 ** (bits - 1) if zero_points == "none" else -form.lowest
    return Layout(num_rows, num_columns, bits, block, zero_points, offset, form.scales)


def packed_forms(source: WeightSource) -> dict[str, Packed]:
    """The weights of ``source`` that are packed: matrices, and stacks of them."""
    readers = {name: source.packed(name) or source.packed_stack(name) for name in source.tensors}
    return {name: reader.form for name, reader in readers.items() if reader is not None}


class LaidOut:
    """A weight's rows in an operator's layout. Scales and zero points are small: they are kept from the pass over the
    integers to their turn.

    Args:
        read: gives all rows in order, some at a time.
        layout: of the operator.
        order: of the columns; None: as they are stored.
    """

    def __init__(self, read: Callable[[], Iterator[PackedRows]], layout: Layout, order: torch.Tensor | None = None):
        self.layout = layout
        self._read, self._order = read, order
        self._kept: dict[str, list[torch.Tensor]] = {}

    def pieces(self, part: str) -> Iterator[torch.Tensor]:
        """Flat pieces of the integers ("B"), of "scales" or of "zero_points"."""
        if part == "B":
            self._kept = {"scales": [], "zero_points": []}
            return self._integers()
        if part not in self._kept:
            for _ in self.pieces("B"):
                pass
        return iter(self._kept.pop(part))

    def _integers(self) -> Iterator[torch.Tensor]:
        layout = self.layout
        for rows in map(PackedRows.without_minimums, self._read()):
            values = rows.values.to(torch.int16) + layout.offset
            self._kept["scales"].append(self._by_block(rows, rows.scales.to(layout.scales)).reshape(-1))
            if rows.zero_points is not None:
                self._kept["zero_points"].append(self._zero_points(rows, rows.zero_points))
            yield self._bytes(values if self._order is None else values[:, self._order])

    def _zero_points(self, rows: PackedRows, zero_points: torch.Tensor) -> torch.Tensor:
        is_real = self.layout.zero_points == "real"
        zeros = self._by_block(rows, zero_points.to(torch.float32 if is_real else torch.int16) + self.layout.offset)
        return zeros.reshape(-1) if is_real else self._bytes(zeros)

    def _by_block(self, rows: PackedRows, groups: torch.Tensor) -> torch.Tensor:
        """One number for each of the operator's blocks, from one for each group."""
        groups = groups.expand(len(rows.values), -1)
        if groups.shape[1] == 1:
            return groups.expand(-1, self.layout.num_blocks).contiguous()
        return groups[:, torch.arange(self.layout.num_blocks) * self.layout.block // rows.group_size]

    def _bytes(self, integers: torch.Tensor) -> torch.Tensor:
        integers = integers.to(torch.uint8).reshape(-1)
        return integers if self.layout.bits == 8 else integers[::2] | (integers[1::2] << 4)
