"""Turns products with a quantised weight into ``com.microsoft::MatMulNBits``, whose weight stays packed.

It knows the neutral packed form and the operator's layout, and neither the formats of checkpoints nor targets. A weight
that the operator cannot express stays dense.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import from_torch_dtype

from QEfficient.exporter.weights import SourceTensor, Weight
from QEfficient.transformers.checkpoint.packed import Packed, PackedReader, PackedRows
from QEfficient.transformers.checkpoint.source import WeightSource

_DOMAIN = "com.microsoft"
LayoutOf = Callable[[Packed], "Layout | None"]
_BLOCKS = (16, 256)
"""Smallest and largest power of two that the operator takes as a block."""
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


def apply(model: ir.Model) -> int:
    """Rewrite ``model`` in place; returns the number of products."""
    return pack(model, layout_of)


def pack(model: ir.Model, layout_of: LayoutOf) -> int:
    """Replace products with weights that their source has packed.

    Args:
        model: changed in place.
        layout_of: how a target's operator stores a weight; None for one that does not stay packed.

    Returns:
        The number of products.
    """
    operands: dict[str, _Operands | None] = {}
    num_packed = 0
    for node in list(model.graph):
        weight = _linear_weight(node)
        if weight is None:
            continue
        name = weight.source_name
        if name not in operands:
            operands[name] = _operands(weight, layout_of)
        if (packed := operands[name]) is not None:
            _replace(model.graph, node, packed)
            num_packed += 1
    if num_packed:
        model.graph.opset_imports[_DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return num_packed


def packed_layouts(source: WeightSource, layout_of: LayoutOf = layout_of) -> dict[str, Layout | None]:
    """How the operator stores each quantised weight of ``source``; None for one that it cannot."""
    readers = {name: source.packed(name) for name in source.tensors}
    return {name: layout_of(reader.form) for name, reader in readers.items() if reader is not None}


def _linear_weight(node: ir.Node) -> Weight | None:
    """The weight of ``x @ transpose(weight)``, whatever it is cast to."""
    if node.op_type != "MatMul" or node.domain or (transposed := node.inputs[1]) is None:
        return None
    transpose = transposed.producer()
    if transpose is None or transpose.op_type != "Transpose" or (value := transpose.inputs[0]) is None:
        return None
    cast = value.producer()
    if cast is not None and cast.op_type == "Cast" and cast.inputs[0] is not None:
        value = cast.inputs[0]
    return value.const_value if isinstance(value.const_value, Weight) else None


@dataclass(frozen=True)
class _Operands:
    """What takes the place of one weight in a graph."""

    layout: Layout
    tensors: Mapping[str, _PackedTensor]
    order: torch.Tensor | None
    """Of the input features, where the checkpoint's groups are not of consecutive ones."""


def _operands(weight: Weight, layout_of: LayoutOf) -> _Operands | None:
    name, reader = weight.source_name, weight.packed()
    layout = None if reader is None else layout_of(reader.form)
    if reader is None or layout is None:
        return None
    order = None
    if (groups := reader.column_groups()) is not None:
        order = groups.argsort(stable=True)
        if not bool((groups.bincount() == reader.form.block[1]).all()):
            return None
        if bool((groups.diff() >= 0).all()):
            order = None
    rows = _LaidOut(reader, layout, order)
    parts = ("B", "scales") if layout.zero_points == "none" else ("B", "scales", "zero_points")
    return _Operands(layout, {part: _PackedTensor(name, part, rows) for part in parts}, order)


def _replace(graph: ir.Graph, node: ir.Node, packed: _Operands) -> None:
    layout, inputs = packed.layout, node.inputs[0]
    assert inputs is not None
    if packed.order is not None:
        name = f"{packed.tensors['B'].source_name}.order"
        order = _initializer(graph, name, ir.tensor(packed.order.numpy(), name=name))
        gather = ir.node("Gather", [inputs, order], attributes={"axis": -1}, name=f"{node.name}.order")
        gather.outputs[0].name, gather.outputs[0].type, gather.outputs[0].shape = gather.name, inputs.type, inputs.shape
        graph.insert_before(node, gather)
        inputs = gather.outputs[0]
    operands = [_operand(graph, node, tensor) for tensor in packed.tensors.values()]
    sizes = {"K": layout.num_columns, "N": layout.num_rows, "bits": layout.bits, "block_size": layout.block}
    product = ir.node("MatMulNBits", [inputs, *operands], attributes=sizes, domain=_DOMAIN, name=node.name)
    product.metadata_props.update(node.metadata_props)
    made, output = node.outputs[0], product.outputs[0]
    output.type, output.shape = made.type, made.shape
    graph.insert_before(node, product)
    is_output = made in graph.outputs
    made_name = made.name
    ir.convenience.replace_all_uses_with(made, output, replace_graph_outputs=is_output)
    graph.remove(node, safe=True)
    output.name = made_name


def _operand(graph: ir.Graph, node: ir.Node, tensor: _PackedTensor) -> ir.Value:
    """An input of the operator; scales in half precision are cast to what it wants."""
    value = _initializer(graph, str(tensor.name), tensor)
    if tensor.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return value
    cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT}, name=f"{node.name}.scales")
    output = cast.outputs[0]
    output.name, output.type, output.shape = cast.name, ir.TensorType(ir.DataType.FLOAT), value.shape
    graph.insert_before(node, cast)
    return output


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
        value.const_value = tensor
        graph.register_initializer(value)
    return graph.initializers[name]


class _LaidOut:
    """A weight's rows in the operator's layout. Scales and zero points are small: they are kept from the pass over the
    integers to their turn."""

    def __init__(self, reader: PackedReader, layout: Layout, order: torch.Tensor | None):
        self.layout = layout
        self._reader, self._order = reader, order
        self._kept: dict[str, list[torch.Tensor]] = {}

    def pieces(self, part: str) -> Iterator[torch.Tensor]:
        """One of the operator's inputs, flat."""
        if part == "B":
            self._kept = {"scales": [], "zero_points": []}
            return self._integers()
        if part not in self._kept:
            for _ in self.pieces("B"):
                pass
        return iter(self._kept.pop(part))

    def _integers(self) -> Iterator[torch.Tensor]:
        layout = self.layout
        for rows in map(PackedRows.without_minimums, self._reader.rows()):
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


class _PackedTensor(SourceTensor):
    """One of the operator's inputs."""

    __slots__ = ("_part", "_rows", "source_name")

    def __init__(self, source_name: str, part: str, rows: _LaidOut):
        layout = rows.layout
        octets, num_blocks = layout.block * layout.bits // 8, layout.num_rows * layout.num_blocks
        shape, dtype = {
            "B": ((layout.num_rows, layout.num_blocks, octets), torch.uint8),
            "scales": ((num_blocks,), layout.scales),
            "zero_points": ((num_blocks,), torch.float32)
            if layout.zero_points == "real"
            else ((num_blocks * layout.bits // 8,), torch.uint8),
        }[part]
        super().__init__(
            self.read_whole,
            dtype=from_torch_dtype(dtype),
            shape=ir.Shape(shape),
            name=f"{source_name}.{part}",
            cache=False,
        )
        self.source_name, self._part, self._rows = source_name, part, rows

    @property
    def content(self) -> Hashable:
        """See :class:`~QEfficient.exporter.weights.SourceTensor`."""
        return self.source_name, self._part

    def pieces(self) -> Iterator[torch.Tensor]:
        """See :class:`~QEfficient.exporter.weights.SourceTensor`."""
        return self._rows.pieces(self._part)
