"""Quantised weights in one form for all formats: small numbers, scales, zero points, and which of them go together.

A reader in :mod:`QEfficient.transformers.quantizers` brings rows of a stored weight into this form. Here they become
the numbers that they stand for; who keeps them packed takes the form itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import torch

from QEfficient.errors import CorruptCheckpoint
from QEfficient.transformers.checkpoint.weight_files import WeightFile

ROWS_BYTES = 8 << 20
"""Of the expanded rows that are made at once."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A tensor with one number an element."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as small numbers: element = (number - zero point) * scale, with a scale for each block of elements."""

    shape: tuple[int, ...]
    """Of the elements."""
    dtype: torch.dtype
    """Of the elements."""
    num_bits: int
    """Of a number."""
    block: tuple[int, int]
    """Rows and columns that share a scale."""
    lowest: int = 0
    """The lowest integer."""
    has_zero_points: bool = False
    has_real_zero_points: bool = False
    """Whether zero points are real numbers rather than integers."""
    is_float: bool = False
    """Whether the small numbers are floating-point ones."""
    is_transposed: bool = False
    """Whether columns of the tensor are rows of the packed form."""
    has_minimums: bool = False
    """Whether a number of each block is subtracted after scaling."""
    scales: torch.dtype = torch.float32
    """The smallest dtype that has all scales."""


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """A tensor in a safetensors file."""

    file: WeightFile
    name: str
    offset: int
    """In bytes, of its first element."""
    tensor: Dense


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of a quantised weight: element = (value - zero point) * scale - minimum.

    Matrices may be stacked along a first axis, of experts.
    """

    values: torch.Tensor
    """Integers or small floating-point numbers, [..., rows, columns]."""
    scales: torch.Tensor
    """[..., rows, groups], or one group for all columns."""
    zero_points: torch.Tensor | None
    """As the scales; None: they are zero."""
    group_size: int
    """Consecutive columns that share a scale."""
    group_of_column: torch.Tensor | None = None
    """Which group each column is in, where groups are not of consecutive ones."""
    minimums: torch.Tensor | None = None
    """As the scales; None: they are zero."""

    def expand(self) -> torch.Tensor:
        """The elements in float32; of a value of up to 8 bits and a scale of 16, without rounding."""
        elements = self.values.to(torch.float32)
        if self.zero_points is not None:
            elements -= self._by_column(self.zero_points)
        elements.mul_(self._by_column(self.scales))
        return elements if self.minimums is None else elements.sub_(self._by_column(self.minimums))

    def without_minimums(self) -> PackedRows:
        """The same with minimums as zero points: real numbers, and each element rounded once more."""
        if self.minimums is None:
            return self
        is_constant = self.scales == 0
        scales = torch.where(is_constant, self.minimums, self.scales)
        zero_points = torch.where(is_constant, is_constant.float(), self.minimums / self.scales)
        values = torch.where(self._by_column(is_constant) > 0, 0, self.values)
        return replace(self, values=values, scales=scales, zero_points=zero_points, minimums=None)

    def _by_column(self, groups: torch.Tensor) -> torch.Tensor:
        groups = groups.to(torch.float32)
        if groups.shape[-1] == 1:
            return groups
        if self.group_of_column is not None:
            return groups[..., self.group_of_column]
        return groups.repeat_interleave(self.group_size, -1)[..., : self.values.shape[-1]]


class Parts:
    """The stored tensors that make up one quantised weight, read when a reader asks for them.

    Args:
        stored: by the names that the format has for them.
        load_rows: reads rows ``start`` to ``stop`` of a tensor along its first axis.
    """

    def __init__(self, stored: Mapping[str, Stored], load_rows: Callable[[Stored, int, int], torch.Tensor]):
        self._stored, self._load_rows = stored, load_rows
        self._whole: dict[str, torch.Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of a part along its first axis."""
        return self._load_rows(self._stored[name], start, stop)

    def whole(self, name: str) -> torch.Tensor:
        """A part as a whole; read once."""
        if name not in self._whole:
            stored = self._stored[name]
            shape = stored.tensor.shape
            self._whole[name] = self._load_rows(stored, 0, shape[0] if shape else 1).reshape(shape)
        return self._whole[name]

    def finite(self, name: str) -> torch.Tensor:
        """A part of real numbers as a whole.

        Raises:
            CorruptCheckpoint: it holds NaN or infinity.
        """
        is_new, tensor = name not in self._whole, self.whole(name)
        if is_new and not tensor.float().isfinite().all():
            raise self.error(name, "holds NaN or infinity, expected finite numbers")
        return tensor

    def indices(self, name: str, limit: int) -> torch.Tensor:
        """A part of integers from 0 to below ``limit`` as a whole.

        Raises:
            CorruptCheckpoint: one is outside of them.
        """
        indices = self.whole(name).long()
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < limit:
            low, high = int(indices.min()), int(indices.max())
            raise self.error(name, f"has indices from {low} to {high}, expected 0 to {limit - 1}")
        return indices

    def error(self, name: str, what: str) -> CorruptCheckpoint:
        """What is wrong with a part."""
        return damaged(self._stored[name], what)


def damaged(stored: Stored, what: str, setting: str | None = None) -> CorruptCheckpoint:
    """An error that names the file and the key of a stored tensor.

    Args:
        stored: the tensor.
        what: is wrong with it.
        setting: of the config that says otherwise, and may be what is wrong.
    """
    remedy = "Download the checkpoint again."
    if setting is not None:
        remedy = f"It and {setting} in the config contradict each other: download both again."
    return CorruptCheckpoint(f"{stored.file.path}: '{stored.name}' {what}. {remedy}")


class Packing(Protocol):
    """How a format stores one weight. Its ``repr`` says all that the elements depend on, besides the stored bytes."""

    @property
    def form(self) -> Packed:
        """What the weight is, once it is in the neutral form."""

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """Rows along the first axis: of the matrix, or whole matrices of stacked ones.

        Raises:
            CorruptCheckpoint: a part holds what no checkpoint of the format has.
        """

    def column_groups(self, parts: Parts) -> torch.Tensor | None:
        """Which group each column is in; None: groups are of consecutive columns.

        Raises:
            CorruptCheckpoint: as for :meth:`rows`.
        """


@dataclass(frozen=True, eq=False, slots=True)
class Quantized:
    """A weight that a checkpoint stores in parts, as the dense tensor that it stands for."""

    packing: Packing
    parts: Mapping[str, Stored]
    tensor: Dense

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        """Rows along the first axis, expanded."""
        elements = self.packing.rows(parts, start, stop).expand().to(self.tensor.dtype)
        return elements.transpose(-1, -2).contiguous() if self.packing.form.is_transposed else elements

    def whole(self, load_rows: Callable[[Stored, int, int], torch.Tensor]) -> torch.Tensor:
        """All elements; besides them, a few of their rows are in memory at a time."""
        parts = Parts(self.parts, load_rows)
        elements = torch.empty(self.tensor.shape, dtype=self.tensor.dtype)
        for start, stop in self.steps():
            elements[start:stop] = self.rows(parts, start, stop)
        return elements

    def steps(self) -> Iterator[tuple[int, int]]:
        """Rows to expand at once: first and end."""
        shape = torch.Size(self.tensor.shape)
        step = max(1, ROWS_BYTES // max(1, shape[1:].numel() * self.tensor.dtype.itemsize))
        return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


class PackedReader:
    """Reads one weight in the neutral form.

    Args:
        weight: what to read.
        load_rows: see :class:`Parts`.
    """

    def __init__(self, weight: Quantized, load_rows: Callable[[Stored, int, int], torch.Tensor]):
        self.form = weight.packing.form
        self._weight, self._load_rows = weight, load_rows

    def column_groups(self) -> torch.Tensor | None:
        """See :meth:`Packing.column_groups`."""
        return self._weight.packing.column_groups(self._parts())

    def rows(self) -> Iterator[PackedRows]:
        """All rows in order, some at a time."""
        parts = self._parts()
        return (self._weight.packing.rows(parts, start, stop) for start, stop in self._weight.steps())

    def _parts(self) -> Parts:
        return Parts(self._weight.parts, self._load_rows)


class PackedStack(Protocol):
    """Matrices of one shape and form."""

    @property
    def form(self) -> Packed:
        """Of all: its shape is [matrices, rows, columns]."""

    def rows(self, matrix: int, start: int, stop: int) -> Iterator[PackedRows]:
        """Rows of a matrix in order, some at a time."""


def quantized(packing: Packing, parts: Mapping[str, Stored]) -> Quantized:
    """The dense tensor of a weight that ``packing`` describes."""
    form = packing.form
    return Quantized(packing, parts, Dense(form.shape, form.dtype))


def unpack_bits(words: torch.Tensor, num_bits: int, count: int) -> torch.Tensor:
    """Unsigned integers that are packed without gaps along the last axis, from the lowest bit on.

    Args:
        words: int32 or uint8, [..., words].
        num_bits: of an integer, 1 to 8.
        count: integers along the last axis; further bits are padding.

    Returns:
        uint8, [..., count].
    """
    octets = words.reshape(-1).view(torch.uint8).reshape(*words.shape[:-1], -1)
    if 8 % num_bits == 0:
        shifts = torch.arange(0, 8, num_bits, dtype=torch.uint8)
        values = (octets.unsqueeze(-1) >> shifts) & (2**num_bits - 1)
        return values.flatten(-2)[..., :count]
    octets = torch.nn.functional.pad(octets, (0, 1))
    bits = torch.arange(count) * num_bits
    first, shift = bits // 8, (bits % 8).to(torch.int16)
    pairs = octets[..., first].to(torch.int16) | (octets[..., first + 1].to(torch.int16) << 8)
    # A pair's sign is its highest bit, which a shift drags along and the mask takes off again.
    return ((pairs >> shift) & (2**num_bits - 1)).to(torch.uint8)


def num_words(count: int, num_bits: int) -> int:
    """32-bit words that ``count`` integers take."""
    return ceil(count * num_bits / 32)
