"""HQQ: integers of 1 to 8 bits with real zero points, as HQQLinear's state_dict has them.

Parts, for [out, in] elements: ``W_q``, ``scale`` and ``zero``, and what describes them, each a tensor: ``shape``,
``axis``, ``group_size``, ``packing`` (text in uint8) and more. The elements in their order are a matrix of groups:
[groups, group_size] for axis 1, [group_size, groups] for axis 0. Its first axis is cut into as many pieces as a word
has integers: the first piece is in the highest bits. 3 bits are ten integers in int32, others fill uint8; with
``view_as_float``, the words are stored as if they were real numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    read_integer,
    read_integers,
    read_octets,
    require_dtype,
    require_parts,
    require_shape,
    unsupported,
)


@dataclass(frozen=True)
class Words:
    """How integers are packed."""

    name: str
    num_bits: int
    per_word: int
    dtype: torch.dtype = torch.uint8
    """Of a word."""


_WORDS = {
    words.name: words
    for words in (
        Words("8bit_u8", 8, 1),
        Words("4bit_u8", 4, 2),
        Words("3bit_32", 3, 10, torch.int32),
        Words("2bit_u8", 2, 4),
        Words("1bit_u8", 1, 8),
    )
}
"""By what ``packing`` says."""
_NAME_BYTES = 32
_DESCRIPTION = (
    *("nbits", "group_size", "shape", "axis", "packing", "view_as_float", "unpack_view_dtype", "compute_dtype"),
    *("quant_scale", "quant_zero", "offload_meta", "encoded_state_dict", "stores_quant_config"),
    *("channel_wise", "optimize", "round_zero"),
)


@dataclass(frozen=True)
class HQQPacking:
    """One weight."""

    form: Packed
    words: Words
    axis: int
    group_size: int

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        scales, zero_points = parts.finite("scale"), parts.finite("zero")
        num_rows, num_columns = self.form.shape
        if self.axis == 1:
            num_groups = num_columns // self.group_size
            groups = torch.arange(start * num_groups, stop * num_groups)
            values = self._integers(parts, groups, torch.zeros_like(groups), 1).reshape(stop - start, num_columns)
            of_rows = slice(start, stop)
            scales, zero_points = scales.reshape(num_rows, -1)[of_rows], zero_points.reshape(num_rows, -1)[of_rows]
            return PackedRows(values, scales, zero_points, self.group_size)
        num_places = num_rows // self.group_size
        rows = torch.arange(start, stop)
        places = rows % num_places
        values = self._integers(parts, rows // num_places, places, num_places)
        scales, zero_points = scales.reshape(num_places, -1)[places], zero_points.reshape(num_places, -1)[places]
        return PackedRows(values, scales, zero_points, 1)

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""

    def _integers(self, parts: Parts, rows: torch.Tensor, places: torch.Tensor, num_places: int) -> torch.Tensor:
        """Of the matrix of groups, rows whose columns are cut into ``num_places``, and of each the piece wanted."""
        words = parts.whole("W_q").view(self.words.dtype)
        step = len(words)
        piece = words.reshape(step, num_places, -1)[rows % step, places]
        shifts = (self.words.per_word - 1 - rows // step) * self.words.num_bits
        return ((piece >> shifts.to(piece.dtype)[:, None]) & (2**self.words.num_bits - 1)).to(torch.uint8)


@dataclass(frozen=True)
class HQQ:
    """The format. Its config says how it was made; the parts say what they are."""

    suffixes: ClassVar[Mapping[str, str]] = {f".{part}": part for part in ("W_q", "scale", "zero", *_DESCRIPTION)}
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> HQQ:
        """Whatever the config says, the parts say it too."""
        return cls()

    def packing(self, parts: Mapping[str, Stored]) -> HQQPacking | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            UnsupportedModel: a variant that is not read.
            CorruptCheckpoint: their shapes belong to no weight.
        """
        if parts.keys().isdisjoint(("W_q", "packing", "nbits")):
            return None
        for name in ("quant_scale", "quant_zero"):
            if name in parts and read_integer(parts[name]):
                raise unsupported(parts[name], "is true, and this version reads no scales that are quantised")
        require_parts(parts, "W_q", "scale", "zero", "shape", "axis", "group_size", "packing")
        words = _words(parts["packing"])
        if "nbits" in parts:
            _check_bits(parts["nbits"], words)
        axis, group_size = read_integer(parts["axis"]), read_integer(parts["group_size"])
        if axis not in (0, 1):
            raise damaged(parts["axis"], f"is {axis}, expected 0 or 1")
        num_rows, num_columns = read_integers(parts["shape"], 2)
        if group_size < 1 or num_rows * num_columns % group_size:
            what = f"is {group_size}, which does not divide {num_rows * num_columns} elements"
            raise damaged(parts["group_size"], what)
        if (num_columns if axis else num_rows) % group_size:
            what = f"is {group_size}, and this version reads no groups that go from one row or column into the next"
            raise unsupported(parts["group_size"], what)
        num_groups = num_rows * num_columns // group_size
        for name in ("scale", "zero"):
            require_dtype(parts[name], *FLOATS)
            require_shape(parts[name], *((num_groups, 1) if axis else (1, num_groups)))
        _require_words(parts["W_q"], words, (num_groups, group_size) if axis else (group_size, num_groups))
        block = (1, group_size if axis else 1)
        dtype = parts["scale"].tensor.dtype
        form = Packed((num_rows, num_columns), dtype, words.num_bits, block, 0, True, has_real_zero_points=True)
        return HQQPacking(form, words, axis, group_size)


def _words(packing: Stored) -> Words:
    require_dtype(packing, torch.uint8)
    name = read_octets(packing, _NAME_BYTES).decode("ascii", "replace")
    if name not in _WORDS:
        raise unsupported(packing, f"is {name!r}, and this version reads {', '.join(_WORDS)}")
    return _WORDS[name]


def _check_bits(stored: Stored, words: Words) -> None:
    """
    Raises:
        CorruptCheckpoint: integers of so many bits are packed in other words. Those of 5 and 6 bits take 8, and the
            1.58 of ternary ones 2.
    """
    require_dtype(stored, torch.int32, torch.float32)
    require_shape(stored)
    bits = np.frombuffer(read_octets(stored, 4), "<f4" if stored.tensor.dtype == torch.float32 else "<i4")[0].item()
    smallest = {8: 5, 2: 1.5}.get(words.num_bits, words.num_bits)
    if not smallest <= bits <= words.num_bits:
        raise damaged(stored, f"is {bits}, and {words.name} is of {words.num_bits} bits")


def _require_words(stored: Stored, words: Words, shape: tuple[int, int]) -> None:
    """
    Args:
        stored: the words; may be stored as real numbers.
        words: what they are.
        shape: of the matrix of groups.

    Raises:
        CorruptCheckpoint: they hold no such matrix.
    """
    require_dtype(stored, words.dtype, *FLOATS)
    is_padded = words.dtype == torch.int32
    num_bytes = shape[1] * words.dtype.itemsize
    num_words = -(-shape[0] // words.per_word)
    item_bytes = stored.tensor.dtype.itemsize
    if (shape[0] % words.per_word and not is_padded) or stored.tensor.shape != (num_words, num_bytes / item_bytes):
        what = f"has shape {stored.tensor.shape} of {item_bytes} bytes, which holds no {shape} of {words.num_bits} bits"
        raise damaged(stored, what)
