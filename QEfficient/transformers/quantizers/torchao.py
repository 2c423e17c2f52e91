"""torchao: tensor subclasses, taken apart for safetensors; the file's ``__metadata__`` says what they were.

Parts, for [out, in] elements: ``_weight_qdata``, ``_weight_scale`` and ``_weight_zero_point``. Of Int8Tensor and
IntxUnpackedToInt8Tensor, integers are in int8, and scales and zero points are one for each block. Of Float8Tensor,
numbers are in float8. Of Int4Tensor, integers from -8 to 7 are two an octet, the first in the lower bits; scales and
zero points are [groups, out], and element = integer * scale + zero point. What quantises activations is left out: they
are computed with as real numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from QEfficient.transformers.checkpoint.files import shortened
from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged, unpack_bits
from QEfficient.transformers.quantizers.checks import (
    FLOAT_NAMES,
    FLOATS,
    Section,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
    unsupported,
)
from QEfficient.transformers.quantizers.fp8 import FLOAT8, BlockPacking

_QDATA = "._weight_qdata"
_OTHERS = ("act_pre_scale", "act_quant_scale", "act_quant_zero_point", "scale_and_zero", "per_tensor_scale")
_PARTS = {"qdata": "weight"} | {name: name for name in ("scale", "zero_point", *_OTHERS)}
"""By torchao's names."""
_DESCRIPTION_CHARS = 4096


@dataclass(frozen=True)
class OctetsPacking(BlockPacking):
    """One weight of integers, each in int8."""

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        rows = super().rows(parts, start, stop)
        self._check(parts, "weight", rows.values)
        if rows.zero_points is not None and not self.form.has_real_zero_points:
            self._check(parts, "zero_point", rows.zero_points)
        return rows

    def _check(self, parts: Parts, name: str, integers: torch.Tensor) -> None:
        low, high = int(integers.min()), int(integers.max())
        lowest, highest = self.form.lowest, -self.form.lowest - 1
        if not lowest <= low <= high <= highest:
            raise parts.error(name, f"has integers from {low} to {high}, expected {lowest} to {highest}")


@dataclass(frozen=True)
class NibblesPacking:
    """One weight of integers of 4 bits."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        octets = parts.rows("weight", start, stop).view(torch.uint8)
        values = (unpack_bits(octets, 4, self.form.shape[1]) ^ 8).to(torch.int8) - 8
        scales = parts.finite("scale")[:, start:stop].t().float()
        if not bool((scales != 0).all()):
            raise parts.error("scale", "holds zeros, expected other numbers")
        zero_points = -parts.finite("zero_point")[:, start:stop].t().float() / scales
        return PackedRows(values, scales, zero_points, self.form.block[1])

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class TorchAO:
    """The format. Its config says how it was made; the files say what they hold."""

    suffixes: ClassVar[Mapping[str, str]] = {f"._weight_{name}": part for name, part in _PARTS.items()}
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> TorchAO:
        """Whatever the config says, the files say it too."""
        return cls()

    def packing(self, parts: Mapping[str, Stored]) -> BlockPacking | NibblesPacking:
        """How the weight of ``parts`` is packed.

        Raises:
            UnsupportedModel: a tensor subclass that is not read.
            CorruptCheckpoint: their shapes belong to no weight.
        """
        require_parts(parts, "weight")
        description = _Description(parts["weight"])
        description.check_parts(parts)
        if "act_pre_scale" in parts:
            raise unsupported(parts["act_pre_scale"], "scales activations, which this version does not do")
        kind = description.kind
        if kind == "Int4Tensor":
            return _nibbles(parts, description)
        if kind == "Float8Tensor":
            return _floats(parts, description)
        if kind in ("Int8Tensor", "IntxUnpackedToInt8Tensor"):
            return _octets(parts, description, 8 if kind == "Int8Tensor" else description.num_bits)
        known = "Int8Tensor, IntxUnpackedToInt8Tensor, Int4Tensor, Float8Tensor"
        raise unsupported(parts["weight"], f"is of {shortened(kind)}, and this version reads {known}")


class _Description:
    """What a file says of one weight."""

    def __init__(self, stored: Stored):
        self._stored = stored
        self._name = stored.name.removesuffix(_QDATA) + ".weight"
        text = stored.file.header.metadata.get(self._name)
        if text is None or len(text) > _DESCRIPTION_CHARS:
            raise self._damaged("is missing or long")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"is not JSON ({error})") from error
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}
        data = self._values.get("_data")
        self._data: dict[str, Any] = data if isinstance(data, dict) else {}

    def _damaged(self, what: str) -> Exception:
        return damaged(self._stored, f"is described by '{self._name}' in the file's __metadata__, which {what}")

    @property
    def kind(self) -> object:
        """The tensor subclass."""
        return self._values.get("_type")

    def check_parts(self, parts: Mapping[str, Stored]) -> None:
        """
        Raises:
            CorruptCheckpoint: these are not the parts that the weight has.
        """
        names = self._values.get("_tensor_data_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._damaged(f"has the _tensor_data_names {shortened(names)}, expected a list of names")
        listed = {_PARTS.get(str(name), str(name)) for name in names}
        require_parts(parts, *sorted(listed))
        for name in sorted(parts.keys() - listed):
            raise damaged(parts[name], f"is not part of '{self._name}' by the file's __metadata__")

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        if (name := self._dtype_name("dtype")) not in FLOAT_NAMES:
            raise self._damaged(f"has the dtype {shortened(name)}, expected {', '.join(FLOAT_NAMES)}")
        return FLOAT_NAMES[name]

    @property
    def num_bits(self) -> int:
        """Of an integer."""
        kinds = {f"int{bits}": bits for bits in range(1, 9)}
        if (name := self._dtype_name("target_dtype")) not in kinds:
            raise self._damaged(f"has the target_dtype {shortened(name)}, expected int1 to int8")
        return kinds[name]

    def _dtype_name(self, key: str) -> str:
        value = self._data.get(key)
        return str(value.get("_data")) if isinstance(value, dict) else str(value)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            CorruptCheckpoint: the weight has another one.
        """
        if self._data.get("shape") != [*shape]:
            raise self._damaged(f"has the shape {shortened(self._data.get('shape'))}, expected {[*shape]}")

    def block(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns that share a scale, of a matrix."""
        sizes = self._data.get("block_size")
        if not isinstance(sizes, list) or len(sizes) != len(shape) or not all(map(_divides, sizes, shape)):
            raise self._damaged(f"has the block_size {shortened(sizes)}, which does not divide {shape}")
        return sizes[0], sizes[1]


def _divides(part: object, size: int) -> bool:
    return type(part) is int and part > 0 and size % part == 0


def _octets(parts: Mapping[str, Stored], description: _Description, num_bits: int) -> OctetsPacking:
    require_parts(parts, "scale")
    require_dtype(parts["weight"], torch.int8)
    shape, block = _blocks(parts, description)
    has_zero_points = "zero_point" in parts
    if has_zero_points:
        require_dtype(parts["zero_point"], torch.int8, *FLOATS)
        require_shape(parts["zero_point"], *parts["scale"].tensor.shape)
    form = Packed(
        shape,
        description.dtype,
        num_bits,
        block,
        lowest=-(2 ** (num_bits - 1)),
        has_zero_points=has_zero_points,
        has_real_zero_points=has_zero_points and parts["zero_point"].tensor.dtype in FLOATS,
    )
    return OctetsPacking(form, "scale", "zero_point" if has_zero_points else None)


def _floats(parts: Mapping[str, Stored], description: _Description) -> BlockPacking:
    require_parts(parts, "scale")
    require_dtype(parts["weight"], *FLOAT8)
    shape, block = _blocks(parts, description)
    return BlockPacking(Packed(shape, description.dtype, 8, block, is_float=True), "scale")


def _blocks(parts: Mapping[str, Stored], description: _Description) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shape of the elements and of a block of them."""
    num_rows, num_columns = require_axes(parts["weight"], 2)
    block = description.block((num_rows, num_columns))
    require_dtype(parts["scale"], *FLOATS)
    require_shape(parts["scale"], num_rows // block[0], num_columns // block[1])
    return (num_rows, num_columns), block


def _nibbles(parts: Mapping[str, Stored], description: _Description) -> NibblesPacking:
    require_parts(parts, "scale", "zero_point")
    require_dtype(parts["weight"], torch.int8, torch.uint8)
    num_rows, num_octets = require_axes(parts["weight"], 2)
    shape = (num_rows, num_octets * 2)
    description.check_shape(shape)
    block = description.block(shape)
    if block[0] != 1:
        raise damaged(parts["weight"], f"is in blocks of {block[0]} rows, expected blocks of one row")
    for name in ("scale", "zero_point"):
        require_dtype(parts[name], *FLOATS)
        require_shape(parts[name], shape[1] // block[1], num_rows)
    dtype = parts["scale"].tensor.dtype
    return NibblesPacking(Packed(shape, dtype, 4, block, -8, has_zero_points=True, has_real_zero_points=True))
