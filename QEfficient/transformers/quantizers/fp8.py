"""FP8 with a scale for each block, as DeepSeek and Qwen write it, or one scale for each weight.

Parts, for [out, in] elements: ``weight`` in float8_e4m3fn, ``weight_scale_inv`` (or ``weight_scale``) [out / block,
in / block] or a single number. Despite its name the former is multiplied too. Scales of activations are left out: they
are computed with as real numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
)

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class BlockPacking:
    """One weight whose elements are stored one by one, with scales for blocks of them."""

    form: Packed
    scale: str
    """The part with the scales."""
    zero_point: str | None = None

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        scales = self._of_rows(parts.finite(self.scale), start, stop)
        zero_points = None
        if self.zero_point is not None:
            zero_points = self._of_rows(parts.finite(self.zero_point), start, stop)
        return PackedRows(parts.rows("weight", start, stop), scales, zero_points, self.form.block[1])

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""

    def _of_rows(self, blocks: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        if blocks.numel() == 1:
            return blocks.reshape(1, 1)
        blocks = blocks.reshape(blocks.shape[0], -1)
        return blocks[torch.arange(start, stop) // self.form.block[0]]


@dataclass(frozen=True)
class FP8:
    """The format."""

    block: tuple[int, int] | None
    """None: one scale for each weight."""

    suffixes: ClassVar[Mapping[str, str]] = {
        f".{part}": part for part in ("weight", "weight_scale_inv", "weight_scale")
    }
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> FP8:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
        """
        section.choice("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
        section.choice("scale_fmt", ("float", "ue8m0"), "float")
        return cls(section.pair("weight_block_size"))

    def packing(self, parts: Mapping[str, Stored]) -> BlockPacking | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        weight = parts.get("weight")
        if {"weight_scale", "weight_scale_inv"} <= parts.keys():
            raise damaged(parts["weight_scale"], "is stored beside 'weight_scale_inv', which says the same")
        name = "weight_scale" if "weight_scale" in parts else "weight_scale_inv"
        if weight is not None and weight.tensor.dtype not in FLOAT8 and name not in parts:
            return None
        require_parts(parts, "weight", name)
        num_rows, num_columns = require_axes(parts["weight"], 2)
        require_dtype(parts["weight"], torch.float8_e4m3fn)
        scale = parts[name]
        require_dtype(scale, *FLOATS, torch.float8_e8m0fnu)
        block = (num_rows, num_columns)
        if self.block is not None:
            block = self.block
            num_blocks = -(-num_rows // block[0]), -(-num_columns // block[1])
            require_shape(scale, *num_blocks, setting="weight_block_size")
        elif prod(scale.tensor.shape) != 1:
            require_shape(scale, setting="weight_block_size")
        dtype = scale.tensor.dtype if scale.tensor.dtype in FLOATS else torch.bfloat16
        form = Packed((num_rows, num_columns), dtype, 8, block, is_float=True)
        return BlockPacking(form, name)
