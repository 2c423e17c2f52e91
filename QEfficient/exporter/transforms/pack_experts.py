"""Keeps stacks of quantised matrices packed: integers, and the arithmetic that expands them, in ONNX's plain operators.

OpenVINO takes that form into the products of routed experts. It knows the neutral packed form and the products of a
layer's experts, and neither the formats of checkpoints nor targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import from_torch_dtype

from QEfficient.exporter import packed_layout
from QEfficient.exporter.packed_layout import LaidOut, Layout
from QEfficient.exporter.weights import SourceTensor, Weight, initializer, weight_of
from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, PackedStack

_INTEGERS = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


def layout_of(form: Packed) -> Layout | None:
    """How a stack is stored, all of its rows one below the other; None where it cannot be."""
    if len(form.shape) != 3:
        return None
    num_matrices, num_rows, num_columns = form.shape
    return packed_layout.layout_of(replace(form, shape=(num_matrices * num_rows, num_columns)))


def apply(model: ir.Model) -> int:
    """Rewrite ``model`` in place; returns the number of products."""
    graph = model.graph
    products = [product for node in list(graph) if (product := _product(node)) is not None]
    for product in products:
        _pack(graph, product)
    if products:
        RemoveUnusedNodesPass()(model)
    return len(products)


@dataclass(frozen=True)
class _Product:
    """``x @ transpose(part of the weight)`` for all experts."""

    transpose: ir.Node
    weight: Weight
    stack: PackedStack
    first: int
    """Row of each matrix."""
    num_rows: int
    """Of each matrix."""


def _product(node: ir.Node) -> _Product | None:
    if node.op_type != "MatMul" or (value := node.inputs[1]) is None:
        return None
    transpose = value.producer()
    if transpose is None or transpose.op_type != "Transpose" or (rows := transpose.inputs[0]) is None:
        return None
    split, index = rows.producer(), rows.index()
    is_split = split is not None and split.op_type == "Split"
    whole = split.inputs[0] if is_split and split is not None else rows
    weight = weight_of(whole)
    stack = None if weight is None or len(weight.shape) != 3 else weight.packed_stack()
    if weight is None or stack is None or layout_of(stack.form) is None:
        return None
    lens = _lens(split) if is_split and split is not None else [stack.form.shape[1]]
    if lens is None:
        return None
    place = index or 0
    return _Product(transpose, weight, stack, sum(lens[:place]), lens[place])


def _lens(split: ir.Node) -> list[int] | None:
    """Rows of the parts of a split; None if it splits something else."""
    lens = [None if output.shape is None else output.shape[1] for output in split.outputs]
    known = [length for length in lens if isinstance(length, int)]
    return known if split.attributes["axis"].as_int() == 1 and len(known) == len(lens) else None


def _pack(graph: ir.Graph, product: _Product) -> None:
    """Put the arithmetic in the place of the rows that are transposed."""
    form = product.stack.form
    shape = (form.shape[0], product.num_rows, form.shape[2])
    layout = layout_of(replace(form, shape=shape))
    assert layout is not None
    rows = LaidOut(lambda: _rows(product), layout)
    blocks = (*shape[:2], layout.num_blocks)
    prefix = f"{product.weight.source_name}.{product.first}"

    def tensor(part: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        packed = _PackedTensor(
            (product.weight.source_name, product.first, part), dtype, shape, rows, f"{prefix}.{part}"
        )
        return initializer(graph, packed)

    def constant(name: str, value: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        return initializer(graph, ir.tensor(value, dtype=dtype, name=f"{prefix}.{name}"))

    def node(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        made = ir.node(op_type, inputs, attributes=attributes, name=f"{prefix}.{op_type}.{inputs[0].name}")
        made.outputs[0].name = made.name
        graph.insert_before(product.transpose, made)
        return made.outputs[0]

    def floats(value: ir.Value) -> ir.Value:
        return value if value.dtype == ir.DataType.FLOAT else node("Cast", value, to=ir.DataType.FLOAT)

    integers = _INTEGERS[layout.bits]
    # In the order in which they are written: the pass over the integers keeps the others.
    numbers = tensor("B", integers, (*blocks, layout.block))
    scales = tensor("scales", from_torch_dtype(layout.scales), (*blocks, 1))
    if layout.zero_points == "none":
        middle = np.full((1, 1, 1, 1), 2 ** (layout.bits - 1), integers.numpy())
        zero_points = constant("zero_points", middle, integers)
    else:
        dtype = ir.DataType.FLOAT if layout.zero_points == "real" else integers
        zero_points = tensor("zero_points", dtype, (*blocks, 1))
    values = node("Sub", floats(numbers), floats(zero_points))
    elements = node("Mul", values, floats(scales))
    expanded = node("Reshape", elements, constant("shape", np.array(shape, np.int64)))
    expanded.type, expanded.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    product.transpose.replace_input_with(0, expanded)


def _rows(product: _Product) -> Iterator[PackedRows]:
    for matrix in range(product.stack.form.shape[0]):
        yield from product.stack.rows(matrix, product.first, product.first + product.num_rows)


class _PackedTensor(SourceTensor):
    """Integers, scales or zero points of the rows of a product."""

    __slots__ = ("_content", "_rows")

    def __init__(
        self, content: tuple[str, int, str], dtype: ir.DataType, shape: tuple[int, ...], rows: LaidOut, name: str
    ):
        super().__init__(self._read, dtype=dtype, shape=ir.Shape(shape), name=name, cache=False)
        self._content, self._rows = content, rows

    @property
    def content(self) -> tuple[str, int, str]:
        """See :class:`~QEfficient.exporter.weights.SourceTensor`."""
        return self._content

    def pieces(self) -> Iterator[torch.Tensor]:
        """See :class:`~QEfficient.exporter.weights.SourceTensor`."""
        return self._rows.pieces(self._content[2])

    def _read(self) -> ir.TensorProtocol:
        content = torch.cat(list(self.pieces()))
        shape = self.shape.numpy()
        if self.dtype == ir.DataType.UINT4:
            return ir.PackedTensor(content.numpy(), self.dtype, shape=ir.Shape(shape), name=self.name)
        return ir.tensor(content.reshape(shape).numpy(), dtype=self.dtype, name=self.name)
