"""GPTQ: integers of 2, 3, 4 or 8 bits in int32 along the input features, as AutoGPTQ and GPTQModel write them.

Parts, for [out, in] elements: ``qweight`` [in * bits / 32, out], ``qzeros`` [groups, out * bits / 32], ``scales``
[groups, out] and, with act-order, ``g_idx`` [in]: the group of each input feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged, num_words, unpack_bits
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
)

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GPTQPacking:
    """One weight."""

    form: Packed
    zero_point_offset: int
    """Added to a stored zero point."""

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        (num_rows, num_columns), bits = self.form.shape, self.form.num_bits
        words = parts.whole("qweight")[:, start:stop]
        zeros = unpack_bits(parts.whole("qzeros"), bits, num_rows)[:, start:stop]
        scales = parts.finite("scales")[:, start:stop]
        return PackedRows(
            values=unpack_bits(words.t(), bits, num_columns),
            scales=scales.t(),
            zero_points=((zeros + self.zero_point_offset) & (2**bits - 1)).t(),
            group_size=self.form.block[1],
            group_of_column=self.column_groups(parts),
        )

    def column_groups(self, parts: Parts) -> torch.Tensor | None:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        return parts.indices("g_idx", parts.whole("scales").shape[0]) if "g_idx" in parts else None


@dataclass(frozen=True)
class GPTQ:
    """The format."""

    bits: int | None
    """None: they differ, and follow from the shapes of each weight."""
    zero_point_offset: int
    group_size: int | None
    """-1: one group for all input features; None: it follows from the shapes of each weight."""
    has_order: bool
    """Whether each weight says which group its input features are in."""

    suffixes: ClassVar[Mapping[str, str]] = {f".{part}": part for part in ("qweight", "qzeros", "scales", "g_idx")}
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> GPTQ:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
        """
        layout = section.choice("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        if section.values.get("is_marlin_format"):
            raise section.unsupported("is_marlin_format", "is true, and this version reads no such layout")
        section.choice("pack_dtype", ("int32",), "int32")
        bits, is_mixed = section.choice("bits", _BITS), bool(section.values.get("dynamic"))
        group_size = None if section.values.get("group_size") is None else section.group_size("group_size")
        return cls(
            bits=None if is_mixed else bits,
            zero_point_offset=1 if layout == "gptq" else 0,
            group_size=None if is_mixed else group_size,
            has_order=section.choice("desc_act", (False, True), False),
        )

    def packing(self, parts: Mapping[str, Stored]) -> GPTQPacking:
        """How the weight of ``parts`` is packed.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        require_parts(parts, "qweight", "qzeros", "scales", *(["g_idx"] if self.has_order else []))
        words, zeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
        require_dtype(words, torch.int32)
        require_dtype(zeros, torch.int32)
        require_dtype(scales, *FLOATS)
        num_groups, num_rows = require_axes(scales, 2)
        bits = self._bits(zeros, num_rows)
        setting = "bits" if self.bits else None
        require_shape(zeros, num_groups, num_words(num_rows, bits), setting=setting)
        num_columns = require_axes(words, 2)[0] * 32 // bits
        if "g_idx" in parts:  # says it where the last word is padded
            (num_columns,) = require_axes(parts["g_idx"], 1)
        require_shape(words, num_words(num_columns, bits), num_rows, setting=setting)
        if "g_idx" in parts:
            require_dtype(parts["g_idx"], torch.int32, torch.int64)
        group_size = self._group_size(scales, num_columns, num_groups)
        form = Packed(
            (num_rows, num_columns),
            scales.tensor.dtype,
            bits,
            (1, group_size),
            has_zero_points=True,
            scales=scales.tensor.dtype,
        )
        return GPTQPacking(form, self.zero_point_offset)

    def _group_size(self, scales: Stored, num_columns: int, num_groups: int) -> int:
        group_size = num_columns if self.group_size == -1 else self.group_size
        if group_size is None:
            if num_columns % num_groups:
                raise damaged(scales, f"has {num_groups} groups, which do not divide {num_columns} input features")
            return num_columns // num_groups
        if -(-num_columns // group_size) != num_groups:
            what = f"has {num_groups} groups, expected groups of {group_size} of {num_columns} features"
            raise damaged(scales, what, "group_size")
        return group_size

    def _bits(self, zeros: Stored, num_rows: int) -> int:
        width = require_axes(zeros, 2)[1]
        if self.bits is not None:
            return self.bits
        fitting = [bits for bits in _BITS if num_words(num_rows, bits) == width]
        if not fitting:
            raise damaged(zeros, f"has {width} words for {num_rows} output features, which are of none of {_BITS} bits")
        return fitting[0]
