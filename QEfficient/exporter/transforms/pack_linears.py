"""Turns products with a quantised weight into ``com.microsoft::MatMulNBits``, whose weight stays packed.

It knows the neutral packed form and the operator's layout, and neither the formats of checkpoints nor targets. A weight
that the operator cannot express stays dense.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import from_torch_dtype

from QEfficient.exporter.packed_layout import LaidOut, Layout, LayoutOf, layout_of
from QEfficient.exporter.weights import SourceTensor, Weight, initializer, weight_of

_DOMAIN = "com.microsoft"


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


def _linear_weight(node: ir.Node) -> Weight | None:
    """The weight of ``x @ transpose(weight)``, whatever it is cast to."""
    if node.op_type != "MatMul" or node.domain or (transposed := node.inputs[1]) is None:
        return None
    transpose = transposed.producer()
    if transpose is None or transpose.op_type != "Transpose":
        return None
    return weight_of(transpose.inputs[0])


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
    rows = LaidOut(reader.rows, layout, order)
    parts = ("B", "scales") if layout.zero_points == "none" else ("B", "scales", "zero_points")
    return _Operands(layout, {part: _PackedTensor(name, part, rows) for part in parts}, order)


def _replace(graph: ir.Graph, node: ir.Node, packed: _Operands) -> None:
    layout, inputs = packed.layout, node.inputs[0]
    assert inputs is not None
    if packed.order is not None:
        name = f"{packed.tensors['B'].source_name}.order"
        order = initializer(graph, ir.tensor(packed.order.numpy(), name=name))
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
    value = initializer(graph, tensor)
    if tensor.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return value
    cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT}, name=f"{node.name}.scales")
    output = cast.outputs[0]
    output.name, output.type, output.shape = cast.name, ir.TensorType(ir.DataType.FLOAT), value.shape
    graph.insert_before(node, cast)
    return output


class _PackedTensor(SourceTensor):
    """One of the operator's inputs."""

    __slots__ = ("_part", "_rows", "source_name")

    def __init__(self, source_name: str, part: str, rows: LaidOut):
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
