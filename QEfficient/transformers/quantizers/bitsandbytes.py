"""bitsandbytes: NF4 and FP4 in blocks, or integers of 8 bits with a scale per output feature.

Parts of 4 bits, for [out, in] elements: ``weight`` [out * in / 2, 1] in uint8, two numbers a byte with the first in the
higher bits; ``weight.quant_map`` [16], the numbers; ``weight.absmax``, the scales of blocks of the flat matrix;
``weight.quant_state.*``, JSON in uint8. With double quantisation, the scales are indices into
``weight.nested_quant_map`` [256], with scales in ``weight.nested_absmax`` and an offset. Of 8 bits: ``weight`` in int8,
and ``SCB`` [out], 127 times the scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Stored, damaged
from QEfficient.transformers.quantizers.checks import (
    FLOAT_NAMES,
    FLOATS,
    Section,
    read_octets,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
)

_STATE_BYTES = 4096


@dataclass(frozen=True)
class BlocksPacking:
    """One weight of 4 bits."""

    form: Packed
    block_size: int
    """Of the flat matrix."""
    nested_block_size: int | None
    """None: the scales are not quantised."""
    nested_offset: float

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        num_columns = self.form.shape[1]
        first, last = start * num_columns, stop * num_columns
        octets = parts.rows("weight", first // 2, last // 2).flatten()
        codes = torch.stack([octets >> 4, octets & 15], -1).flatten().int()
        values = parts.finite("quant_map")[codes].reshape(-1, num_columns)
        blocks = torch.arange(first // self.block_size, -(-last // self.block_size))
        scales = self._scales(parts, blocks)
        if num_columns % self.block_size == 0:
            return PackedRows(values, scales.reshape(stop - start, -1), None, self.block_size)
        of_element = torch.arange(first, last) // self.block_size - blocks[0]
        return PackedRows(values * scales[of_element].reshape(values.shape), torch.ones(1, 1), None, num_columns)

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""

    def _scales(self, parts: Parts, blocks: torch.Tensor) -> torch.Tensor:
        if self.nested_block_size is None:
            return parts.finite("absmax")[blocks]
        codes = parts.whole("absmax")[blocks].int()
        nested = parts.finite("nested_absmax")[blocks // self.nested_block_size]
        return parts.finite("nested_quant_map")[codes] * nested + self.nested_offset


@dataclass(frozen=True)
class Int8Packing:
    """One weight of 8 bits."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        scales = parts.finite("SCB")[start:stop, None] / 127
        return PackedRows(parts.rows("weight", start, stop), scales, None, self.form.shape[1])

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class BitsAndBytes:
    """The format. Its config says how it was made; the parts say what they are."""

    suffixes: ClassVar[Mapping[str, str]] = {
        ".weight": "weight",
        **{f".weight.{part}": part for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")},
        **{f".weight.quant_state.bitsandbytes__{kind}": "state" for kind in ("nf4", "fp4")},
        ".SCB": "SCB",
        ".weight_format": "weight_format",
    }
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> BitsAndBytes:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
        """
        section.choice("bnb_4bit_quant_storage", ("uint8",), "uint8")
        return cls()

    def packing(self, parts: Mapping[str, Stored]) -> BlocksPacking | Int8Packing | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        if "SCB" in parts:
            require_parts(parts, "weight")
            require_dtype(parts["weight"], torch.int8)
            require_dtype(parts["SCB"], torch.float32)
            shape = require_axes(parts["weight"], 2)
            require_shape(parts["SCB"], shape[0])
            return Int8Packing(Packed(shape, torch.float32, 8, (1, shape[1]), lowest=-128))
        weight = parts.get("weight")
        if weight is not None and weight.tensor.dtype in (*FLOATS, torch.float64) and len(parts) == 1:
            return None
        require_parts(parts, "weight", "absmax", "quant_map", "state")
        return _blocks(parts, _State(parts["state"]))


class _State:
    """What describes a weight of 4 bits."""

    def __init__(self, stored: Stored):
        self._stored = stored
        require_dtype(stored, torch.uint8)
        try:
            values = json.loads(read_octets(stored, _STATE_BYTES))
        except ValueError as error:
            raise damaged(stored, f"is not JSON ({error})") from error
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}

    @property
    def shape(self) -> tuple[int, int]:
        """Of the elements."""
        shape = self._values.get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(size) is int and size > 0 for size in shape):
            raise damaged(self._stored, f"has the shape {str(shape)[:60]}, expected two positive sizes")
        return shape[0], shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        if (name := self._values.get("dtype")) not in FLOAT_NAMES:
            raise damaged(self._stored, f"has the dtype {str(name)[:60]}, expected {', '.join(FLOAT_NAMES)}")
        return FLOAT_NAMES[name]

    def size(self, name: str) -> int:
        """A positive whole number."""
        value = self._values.get(name)
        if type(value) is not int or value < 1:
            raise damaged(self._stored, f"has the {name} {str(value)[:60]}, expected a positive whole number")
        return value

    @property
    def nested_offset(self) -> float:
        """Added to the scales that are quantised."""
        value = self._values.get("nested_offset")
        if not isinstance(value, int | float) or not abs(value) < 1e30:
            raise damaged(self._stored, f"has the nested_offset {str(value)[:60]}, expected a number")
        return float(value)


def _blocks(parts: Mapping[str, Stored], state: _State) -> BlocksPacking:
    (num_rows, num_columns), block_size = state.shape, state.size("blocksize")
    require_dtype(parts["weight"], torch.uint8)
    if num_columns % 2 or parts["weight"].tensor.num_bytes * 2 != num_rows * num_columns:
        shape = parts["weight"].tensor.shape
        raise damaged(parts["weight"], f"has shape {shape}, which holds no [{num_rows}, {num_columns}] of 4 bits")
    require_dtype(parts["quant_map"], torch.float32)
    require_shape(parts["quant_map"], 16)
    num_blocks = -(-num_rows * num_columns // block_size)
    require_shape(parts["absmax"], num_blocks)
    form = Packed((num_rows, num_columns), state.dtype, 4, (1, block_size), is_float=True)
    if "nested_absmax" not in parts:
        require_dtype(parts["absmax"], torch.float32)
        return BlocksPacking(form, block_size, None, 0.0)
    require_parts(parts, "nested_quant_map")
    nested_block_size = state.size("nested_blocksize")
    require_dtype(parts["absmax"], torch.uint8)
    for name, size in (("nested_absmax", -(-num_blocks // nested_block_size)), ("nested_quant_map", 256)):
        require_dtype(parts[name], torch.float32)
        require_shape(parts[name], size)
    return BlocksPacking(form, block_size, nested_block_size, state.nested_offset)
