"""AWQ: integers of 4 bits in int32, as AutoAWQ writes them.

Parts, for [out, in] elements. Version "gemm": ``qweight`` [in, out / 8], ``qzeros`` [groups, out / 8], ``scales``
[groups, out], eight output features a word in the order 0 2 4 6 1 3 5 7. Version "gemv": ``qweight`` [out, in / 8],
``qzeros`` [out, words], ``scales`` [out, 8 * words], input features and groups in order, groups padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged, unpack_bits
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
)

_PER_WORD = 8
_PLACES = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in a word of version "gemm" each of its eight integers is."""


def _unpack_columns(words: torch.Tensor) -> torch.Tensor:
    """Integers along the last axis, from words of version "gemm"."""
    values = unpack_bits(words, 4, words.shape[-1] * _PER_WORD)
    return values.unflatten(-1, (-1, _PER_WORD))[..., _PLACES].flatten(-2)


@dataclass(frozen=True)
class GemmPacking:
    """One weight of version "gemm"."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        first, last = start // _PER_WORD, -(-stop // _PER_WORD)
        wanted = slice(start - first * _PER_WORD, stop - first * _PER_WORD)
        zeros = _unpack_columns(parts.whole("qzeros")[:, first:last])[:, wanted].t() if "qzeros" in parts else None
        return PackedRows(
            values=_unpack_columns(parts.whole("qweight")[:, first:last])[:, wanted].t(),
            scales=parts.finite("scales")[:, start:stop].t(),
            zero_points=zeros,
            group_size=self.form.block[1],
        )

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class GemvPacking:
    """One weight of version "gemv"."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        num_columns, group_size = self.form.shape[1], self.form.block[1]
        num_groups = num_columns // group_size
        return PackedRows(
            values=unpack_bits(parts.rows("qweight", start, stop), 4, num_columns),
            scales=parts.finite("scales")[start:stop, :num_groups],
            zero_points=unpack_bits(parts.rows("qzeros", start, stop), 4, num_groups),
            group_size=group_size,
        )

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class AWQ:
    """The format."""

    version: str
    group_size: int
    """-1: one group for all input features."""

    suffixes: ClassVar[Mapping[str, str]] = {f".{part}": part for part in ("qweight", "qzeros", "scales")}
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> AWQ:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
        """
        names = {"w_bit": "bits", "q_group_size": "group_size"}  # AutoAWQ's names in older files
        values = {names.get(key, key): value for key, value in section.values.items()}
        section = Section(section.source, section.name, values)
        section.choice("bits", (4,))
        section.choice("backend", ("autoawq",), "autoawq")
        section.choice("zero_point", (True,), True)
        version = section.choice("version", ("gemm", "gemv"), "gemm")
        return cls(version, section.integer("group_size", 128))

    def packing(self, parts: Mapping[str, Stored]) -> GemmPacking | GemvPacking:
        """How the weight of ``parts`` is packed.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        require_parts(parts, "qweight", "qzeros", "scales")
        require_dtype(parts["qweight"], torch.int32)
        require_dtype(parts["qzeros"], torch.int32)
        require_dtype(parts["scales"], *FLOATS)
        first, second = require_axes(parts["qweight"], 2)
        if self.version == "gemm":
            form = self._form(parts["scales"], second * _PER_WORD, first)
            num_groups = form.shape[1] // form.block[1]
            require_shape(parts["qzeros"], num_groups, second, setting="group_size")
            require_shape(parts["scales"], num_groups, form.shape[0], setting="group_size")
            return GemmPacking(form)
        form = self._form(parts["scales"], first, second * _PER_WORD)
        num_words = _gemv_words(form.shape[1], form.block[1])
        require_shape(parts["qzeros"], first, num_words, setting="group_size")
        require_shape(parts["scales"], first, num_words * _PER_WORD, setting="group_size")
        return GemvPacking(form)

    def _form(self, scales: Stored, num_rows: int, num_columns: int) -> Packed:
        group_size = num_columns if self.group_size == -1 else self.group_size
        if group_size < 1 or num_columns % group_size:
            what = f"is for groups of {group_size}, which do not divide {num_columns} input features"
            raise damaged(scales, what, "group_size")
        return Packed(
            (num_rows, num_columns),
            scales.tensor.dtype,
            4,
            (1, group_size),
            has_zero_points=True,
            scales=scales.tensor.dtype,
        )


def _gemv_words(num_columns: int, group_size: int) -> int:
    """Words of a row's zero points: padded for the kernel's loads."""
    multiple = {64: 2, 32: 4}.get(group_size, 1)
    words = -(-(num_columns // group_size) // _PER_WORD)
    return -(-words // multiple) * multiple
