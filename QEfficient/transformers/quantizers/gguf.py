"""GGUF: blocks of ggml's types along the rows of a matrix, in the order that llama.cpp wants rows in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import blake3
import torch

from QEfficient.transformers.checkpoint.gguf_folder import linked_weights
from QEfficient.transformers.checkpoint.gguf_header import block_sizes
from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored
from QEfficient.transformers.quantizers.checks import Section
from QEfficient.transformers.quantizers.gguf_blocks import TYPES

BLOCKS = "blocks"
"""The only part of a weight: uint8 [..., rows, bytes of a row]."""


@dataclass(frozen=True, eq=False)
class RowOrder:
    """Which stored row each row is."""

    rows: torch.Tensor

    def __repr__(self) -> str:
        return blake3.blake3(self.rows.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class GGUFPacking:
    """One weight."""

    form: Packed
    type: str
    order: RowOrder | None = None

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        _, num_bytes = _block(self.type)
        blocks = self._stored_rows(parts, start, stop).unflatten(-1, (-1, num_bytes))
        if self.type not in TYPES:
            return PackedRows(_expanded(blocks, self.type), torch.ones(1), None, self.form.shape[-1])
        kind = TYPES[self.type]
        values, scales, minimums = kind.decode(blocks)
        if not scales.isfinite().all() or (minimums is not None and not minimums.isfinite().all()):
            raise parts.error(BLOCKS, "has a block whose scale is NaN or infinity, expected finite numbers")
        return PackedRows(
            values=values.flatten(-2),
            scales=scales.flatten(-2),
            zero_points=None,
            group_size=kind.group_size,
            minimums=None if minimums is None else minimums.flatten(-2),
        )

    def _stored_rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        if self.order is None:
            return parts.rows(BLOCKS, start, stop)
        rows = self.order.rows[start:stop]
        first = int(rows.min())
        return parts.rows(BLOCKS, first, int(rows.max()) + 1)[rows - first]

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


def gguf_packing(kind: str, shape: tuple[int, ...], dtype: torch.dtype, order: RowOrder | None) -> GGUFPacking:
    """How a tensor of a type that is made of blocks is packed.

    Args:
        kind: ggml's name of the type.
        shape: of its elements.
        dtype: of its elements, once they are expanded.
        order: of its rows.
    """
    if kind not in TYPES:
        return GGUFPacking(Packed(shape, dtype, 8, (1, shape[-1]), is_float=True), kind, order)
    known = TYPES[kind]
    form = Packed(
        shape,
        dtype,
        known.num_bits,
        (1, known.group_size),
        known.lowest,
        has_minimums=known.has_minimums,
        scales=known.scales,
    )
    return GGUFPacking(form, kind, order)


def row_bytes(kind: str, num_columns: int) -> int:
    """Bytes of a row of a matrix of a type."""
    elements, num_bytes = _block(kind)
    return num_columns // elements * num_bytes


@cache
def _block(kind: str) -> tuple[int, int]:
    """Elements and bytes of a block."""
    return next((elements, num_bytes) for name, elements, num_bytes in block_sizes().values() if name == kind)


def _expanded(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """By the format's library: types of few bits that look their numbers up."""
    from gguf import GGMLQuantizationType, dequantize

    return torch.from_numpy(dequantize(blocks.flatten(-2).contiguous().numpy(), GGMLQuantizationType[kind]))


@dataclass(frozen=True)
class GGUF:
    """The format.

    What a file's tensors are follows from its header and the model, not from a config's section: see
    :mod:`QEfficient.transformers.quantizers.gguf_weights`.
    """

    architecture: str
    """In llama.cpp's words."""

    suffixes: ClassVar[Mapping[str, str]] = {}
    dense_suffix: ClassVar[str] = ""

    @classmethod
    def from_config(cls, section: Section) -> GGUF:
        """
        Raises:
            UnsupportedModel: the config is not one that was made of a GGUF file.
        """
        if not linked_weights(section.source.parent):
            raise section.unsupported("quant_method", "is 'gguf': give the .gguf file itself, not its config")
        return cls(section.text("architecture"))

    def packing(self, parts: Mapping[str, Stored]) -> None:
        """No tensor of safetensors is packed so."""
