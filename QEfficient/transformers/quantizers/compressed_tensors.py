"""compressed-tensors, as llm-compressor writes it: packed integers, single integers, FP8, FP6, or FP4.

Parts, for [out, in] elements: ``weight_packed`` [out, in * bits / 32] in int32 with ``weight_shape``, or ``weight`` in
int8 or float8_e4m3fn; ``weight_scale`` [out, groups], [out, 1], [1] or of blocks; ``weight_zero_point`` of the same
shape, packed along its first axis where the weight is packed; ``weight_g_idx`` [in] with act-order.

FP4 is two numbers a byte in ``weight_packed`` [out, in / 2], with exponents (MXFP4) or with float8 scales below one
``weight_global_scale`` (NVFP4); FP6 is four numbers in three bytes, with exponents (MXFP6). What quantises activations
and the KV cache is left out: they are computed with as real numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch

from QEfficient.transformers.checkpoint.packed import (
    Packed,
    PackedRows,
    Parts,
    Stored,
    damaged,
    num_words,
    unpack_bits,
)
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    read_integers,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
)
from QEfficient.transformers.quantizers.fp8 import BlockPacking
from QEfficient.transformers.quantizers.mxfp4 import BLOCK, powers_of_two, unpack_fp4, unpack_fp6

_SMALL_FLOATS = ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized")
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense", *_SMALL_FLOATS)
_PARTS = tuple(f"weight{end}" for end in ("", "_packed", "_scale", "_global_scale", "_shape", "_zero_point", "_g_idx"))
_NVFP4_BLOCK = 16
_GROUPS = "config_groups"
_INTEGERS = tuple(("int", bits) for bits in range(2, 9))


@dataclass(frozen=True)
class PackedIntegers:
    """One weight in int32 words."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        (num_rows, num_columns), bits = self.form.shape, self.form.num_bits
        offset = -self.form.lowest
        scales = parts.finite("weight_scale")
        zero_points = None
        if "weight_zero_point" in parts:
            packed = parts.whole("weight_zero_point").t()
            zero_points = unpack_bits(packed, bits, num_rows).t()[start:stop].to(torch.int16) - offset
        return PackedRows(
            values=unpack_bits(parts.rows("weight_packed", start, stop), bits, num_columns).to(torch.int16) - offset,
            scales=scales.reshape(1, 1) if scales.numel() == 1 else scales.reshape(num_rows, -1)[start:stop],
            zero_points=zero_points,
            group_size=self.form.block[1],
            group_of_column=self.column_groups(parts),
        )

    def column_groups(self, parts: Parts) -> torch.Tensor | None:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        has_order = "weight_g_idx" in parts
        return parts.indices("weight_g_idx", parts.whole("weight_scale").shape[-1]) if has_order else None


@dataclass(frozen=True)
class SmallFloats:
    """One weight in float4_e2m1 or float6_e2m3."""

    form: Packed

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        if "weight_global_scale" in parts:
            scales = parts.finite("weight_scale")[start:stop].float() / parts.finite("weight_global_scale")
        else:
            scales = powers_of_two(parts, "weight_scale", start, stop)
        unpack = unpack_fp4 if self.form.num_bits == 4 else unpack_fp6
        return PackedRows(unpack(parts.rows("weight_packed", start, stop)), scales, None, self.form.block[1])

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class CompressedTensors:
    """The format.

    Which of the config's groups a weight belongs to is not looked up: its parts and their shapes say it.
    """

    group_sizes: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    strategies: frozenset[str]
    kinds: frozenset[tuple[str, int]]
    """Types and bits of the numbers."""
    is_asymmetric: bool
    """Whether all groups have zero points."""

    suffixes: ClassVar[Mapping[str, str]] = {f".{part}": part for part in _PARTS}
    dense_suffix: ClassVar[str] = ".weight"

    @property
    def bits(self) -> tuple[int, ...]:
        """Of all groups."""
        return tuple(sorted({bits for _, bits in self.kinds}))

    @classmethod
    def from_config(cls, section: Section) -> CompressedTensors:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
            CorruptCheckpoint: a group is none.
        """
        sparsity = section.values.get("sparsity_config")
        if sparsity:
            section.section("sparsity_config").choice("format", ("dense",), "dense")
        if section.values.get("transform_config"):
            raise section.unsupported("transform_config", "rotates activations, which this version does not do")
        weights = list(_weights(section))
        return cls(
            tuple(sorted({size for group in weights if (size := group.integer("group_size", 0)) > 0})),
            tuple(sorted({block for group in weights if (block := group.pair("block_structure"))})),
            frozenset(map(_strategy, weights)),
            frozenset((str(group.values.get("type") or "int"), group.integer("num_bits")) for group in weights),
            bool(weights) and all(group.values.get("symmetric") is False for group in weights),
        )

    def packing(self, parts: Mapping[str, Stored]) -> PackedIntegers | BlockPacking | SmallFloats | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        if "weight_packed" in parts:
            if "weight" in parts:
                raise damaged(parts["weight"], "is stored beside 'weight_packed', which is the same weight")
            if parts["weight_packed"].tensor.dtype != torch.uint8:
                self._require_kind(parts["weight_packed"], *_INTEGERS)
                return self._packed(parts)
            small = _small_floats(parts)
            self._require_kind(parts["weight_packed"], ("float", small.form.num_bits))
            return small
        weight = parts.get("weight")
        if weight is not None and weight.tensor.dtype in (*FLOATS, torch.float64) and "weight_scale" not in parts:
            return None
        require_parts(parts, "weight", "weight_scale")
        require_dtype(parts["weight"], torch.int8, torch.float8_e4m3fn)
        shape = require_axes(parts["weight"], 2)
        block = self._block(parts["weight_scale"], shape)
        is_float = parts["weight"].tensor.dtype == torch.float8_e4m3fn
        self._require_kind(parts["weight"], *([("float", 8)] if is_float else _INTEGERS))
        if "weight_g_idx" in parts:
            raise damaged(parts["weight_g_idx"], "is of packed integers, and 'weight' is not packed")
        zero_point = self._zero_point(parts)
        if zero_point is not None:
            require_shape(parts[zero_point], *parts["weight_scale"].tensor.shape)
            require_dtype(parts[zero_point], torch.int8, torch.float8_e4m3fn)
        dtype = parts["weight_scale"].tensor.dtype
        lowest = 0 if is_float else -128
        form = Packed(
            shape, dtype, 8, block, lowest, has_zero_points=zero_point is not None, is_float=is_float, scales=dtype
        )
        return BlockPacking(form, "weight_scale", zero_point)

    def _require_kind(self, stored: Stored, *kinds: tuple[str, int]) -> None:
        """
        Raises:
            CorruptCheckpoint: no group of the config has such numbers.
        """
        if self.kinds.isdisjoint(kinds):
            said = ", ".join(sorted(f"{kind} of {bits} bits" for kind, bits in self.kinds))
            what = f"is stored as {stored.tensor.dtype}, and the config's weights are {said}"
            raise damaged(stored, what, _GROUPS)

    def _zero_point(self, parts: Mapping[str, Stored]) -> str | None:
        """The part with the zero points."""
        if self.is_asymmetric:
            require_parts(parts, "weight_zero_point")
        return "weight_zero_point" if "weight_zero_point" in parts else None

    def _packed(self, parts: Mapping[str, Stored]) -> PackedIntegers:
        require_parts(parts, "weight_shape", "weight_scale")
        words, scale = parts["weight_packed"], parts["weight_scale"]
        require_dtype(words, torch.int32)
        num_rows, width = require_axes(words, 2)
        shape = read_integers(parts["weight_shape"], 2)
        fitting = [bits for bits in self.bits if num_words(shape[1], bits) == width]
        if shape[0] != num_rows or len(fitting) != 1:
            what = f"has shape {words.tensor.shape}, which holds no {shape} integers of {self.bits} bits"
            raise damaged(words, what, _GROUPS)
        block = self._block(scale, shape)
        if block[0] not in (1, num_rows):
            raise damaged(scale, f"is of blocks of {block[0]} rows, which packed integers do not have", _GROUPS)
        zero_point = self._zero_point(parts)
        if zero_point is not None:
            require_dtype(parts[zero_point], torch.int32)
            require_shape(parts[zero_point], num_words(num_rows, fitting[0]), shape[1] // block[1])
        if "weight_g_idx" in parts:
            require_dtype(parts["weight_g_idx"], torch.int32, torch.int64)
            require_shape(parts["weight_g_idx"], shape[1])
        (bits,), dtype = fitting, scale.tensor.dtype
        return PackedIntegers(
            Packed(shape, dtype, bits, block, -(2 ** (bits - 1)), zero_point is not None, scales=dtype)
        )

    def _block(self, scale: Stored, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns that share a scale, by the shape of the scales."""
        require_dtype(scale, *FLOATS)
        (num_rows, num_columns), scales = shape, scale.tensor.shape
        if prod(scales) == 1 and "tensor" in self.strategies:
            return num_rows, num_columns
        candidates = [
            *([(1, num_columns)] if "channel" in self.strategies else []),
            *((1, size) for size in self.group_sizes if not num_columns % size),
            *self.blocks,
        ]
        for rows, columns in candidates:
            if scales in ((-(-num_rows // rows), -(-num_columns // columns)), (num_rows,) * (columns == num_columns)):
                return rows, columns
        sizes = ", ".join(f"{rows}x{columns}" for rows, columns in candidates)
        what = f"has shape {scales}, expected one scale for each block of {sizes} in {shape}"
        raise damaged(scale, what, _GROUPS)


def _strategy(weights: Section) -> str:
    """Which weights share a scale, as the library infers it where a config does not say."""
    by_group_size = {0: "tensor", -1: "channel"}
    return str(weights.values.get("strategy") or by_group_size.get(weights.integer("group_size", 0), "group"))


def _small_floats(parts: Mapping[str, Stored]) -> SmallFloats:
    require_parts(parts, "weight_scale")
    num_rows, num_bytes = require_axes(parts["weight_packed"], 2)
    scale, bits, block = parts["weight_scale"], 4, BLOCK
    if "weight_global_scale" in parts:
        block = _NVFP4_BLOCK
        require_dtype(parts["weight_global_scale"], torch.float32)
        require_shape(parts["weight_global_scale"], 1)
        require_dtype(scale, torch.float8_e4m3fn)
    else:
        require_dtype(scale, torch.uint8)
        if scale.tensor.shape == (num_rows, num_bytes * 8 // 6 // BLOCK):
            bits = 6
    num_columns = num_bytes * 8 // bits
    require_shape(scale, num_rows, -(-num_columns // block))
    return SmallFloats(Packed((num_rows, num_columns), torch.bfloat16, bits, (1, block), is_float=True))


def _weights(section: Section) -> Iterator[Section]:
    """How each group of the config quantises weights."""
    groups = section.section(_GROUPS)
    section.choice("format", (*_FORMATS, "mixed-precision"), "dense")
    for name in groups.values:
        group = groups.section(name)
        group.choice("format", _FORMATS, "dense")
        if group.values.get("weights") is None:
            continue
        weights = group.section("weights")
        kind = weights.choice("type", ("int", "float"), "int")
        weights.choice("num_bits", tuple(range(2, 9)) if kind == "int" else (4, 6, 8), 8)
        weights.choice("strategy", ("tensor", "channel", "group", "tensor_group", "block"), "tensor")
        weights.choice("dynamic", (False,), False)
        yield Section(weights.source, weights.name, {"num_bits": 8, **weights.values})
