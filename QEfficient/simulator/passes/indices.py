"""Indices out of range: the card drops such a write, and such a read returns an undefined value.

    ScatterND(data, i, u)  ->  ScatterND(data, i', u')         tuples out of range repeat the first that is in range
    GatherND(data, i)      ->  Where(out, undefined, GatherND(data, Where(out, 0, i)))

ONNX Runtime rejects such indices. Repeating a legal write changes nothing and needs no copy of the data; if
no tuple is in range, place 0 is overwritten with its current value.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from QEfficient.simulator.description import UNDEFINED
from QEfficient.simulator.passes.expand import all_graphs, shape_of


class _Builder:
    """Collects the nodes that replace one, and creates their shared constants."""

    def __init__(self, model: ir.Model, name: str):
        self.graph, self.name = model.graph, name
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int | str) -> ir.Value:
        """The only output of a new node."""
        node = ir.node(op_type, list(inputs), attributes)
        node.outputs[0].name = f"{self.name}/index_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def ints(self, values: Sequence[int] | int) -> ir.Value:
        """An int64 constant."""
        text = ",".join(map(str, values)) if isinstance(values, Sequence) else f"scalar {values}"
        name = f"sim/int64[{text}]"
        if name not in self.graph.initializers:
            _add_initializer(self.graph, ir.tensor(values, dtype=ir.DataType.INT64, name=name))
        return self.graph.initializers[name]

    def outside(self, indices: ir.Value, sizes: ir.Value) -> ir.Value:
        """Which members of index tuples are out of range; ONNX lets them count from the end."""
        too_low = self.op("Less", indices, self.op("Neg", sizes))
        return self.op("Or", too_low, self.op("GreaterOrEqual", indices, sizes))

    def count(self, members: ir.Value) -> ir.Value:
        """How many members of each tuple are true."""
        as_int = self.op("Cast", members, to=int(ir.DataType.INT64))
        return self.op("ReduceSum", as_int, self.ints([-1]), keepdims=0)


def _add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=tensor.name, shape=shape_of(tensor), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def make_indices_legal(model: ir.Model) -> None:
    """Replace each ScatterND (without a reduction) and GatherND of a flat graph whose ranks are known."""
    for graph in all_graphs(model):
        for node in list(graph):
            depth = _depth(node)
            if depth is None:
                continue
            builder = _Builder(model, str(node.outputs[0].name))
            replace = _scatter if node.op_type == "ScatterND" else _gather
            result = replace(builder, node, depth)
            _swap(graph, node, builder.nodes, result)


def _depth(node: ir.Node) -> int | None:
    """Members of an index tuple, if this node is to be replaced."""
    if node.op_type not in ("ScatterND", "GatherND"):
        return None
    reduction = node.attributes.get("reduction")
    if reduction is not None and reduction.as_string() != "none":
        return None  # repeating a write would count twice
    data, indices = node.inputs[:2]
    if data is None or indices is None or data.shape is None or not indices.shape:
        return None
    depth = indices.shape[-1]
    return depth if isinstance(depth, int) else None


def _scatter(build: _Builder, node: ir.Node, depth: int) -> ir.Value:
    data, indices, updates = node.inputs
    assert data is not None
    assert data.shape is not None
    assert indices is not None
    assert updates is not None
    inner_rank = len(data.shape) - depth
    rows = build.op("Reshape", indices, build.ints([-1, depth]))
    update_shape = build.op("Concat", build.ints([-1]), build.op("Shape", data, start=depth), axis=0)
    update_rows = build.op("Reshape", updates, update_shape)
    members = build.outside(rows, build.op("Shape", data, end=depth))
    inside = build.op("Equal", build.count(members), build.ints(0))
    origin = build.ints([0] * depth)
    origin_row = build.op("Reshape", origin, build.ints([1, depth]))
    first_value = build.op("GatherND", data, origin_row)
    # One more row, which counts as outside: there may be no index at all, and no place in nothing.
    is_legal = build.op("Concat", build.op("Cast", inside, to=int(ir.DataType.INT64)), build.ints([0]), axis=0)
    first = build.op("ArgMax", is_legal, axis=0, keepdims=1)
    is_any = build.op("Cast", build.op("Gather", is_legal, first, axis=0), to=int(ir.DataType.BOOL))
    known_rows = build.op("Concat", rows, origin_row, axis=0)
    spare_row = build.op("Where", is_any, build.op("Gather", known_rows, first, axis=0), origin)
    any_mask = build.op("Reshape", is_any, build.ints([1] * (1 + inner_rank)))
    known_updates = build.op("Concat", update_rows, first_value, axis=0)
    spare_update = build.op("Where", any_mask, build.op("Gather", known_updates, first, axis=0), first_value)
    row_mask = build.op("Reshape", inside, build.ints([-1, 1]))
    update_mask = build.op("Reshape", inside, build.ints([-1] + [1] * inner_rank))
    legal_rows = build.op("Where", row_mask, rows, spare_row)
    return build.op("ScatterND", data, legal_rows, build.op("Where", update_mask, update_rows, spare_update))


def _gather(build: _Builder, node: ir.Node, depth: int) -> ir.Value:
    data, indices = node.inputs
    assert data is not None
    assert data.shape is not None
    assert indices is not None
    assert indices.shape is not None
    attribute = node.attributes.get("batch_dims")
    batch_dims = attribute.as_int() if attribute is not None else 0
    members = build.outside(indices, build.op("Shape", data, start=batch_dims, end=batch_dims + depth))
    legal = build.op("Where", members, build.ints(0), indices)
    gathered = build.op("GatherND", data, legal, batch_dims=batch_dims)
    outside = build.op("Greater", build.count(members), build.ints(0))
    num_tuple_dims = len(indices.shape) - 1
    tail = len(data.shape) - batch_dims - depth
    if tail:
        outside = build.op("Unsqueeze", outside, build.ints(list(range(num_tuple_dims, num_tuple_dims + tail))))
    return build.op("Where", outside, _undefined(build, data.dtype), gathered)


def _undefined(build: _Builder, dtype: ir.DataType | None) -> ir.Value:
    if dtype == ir.DataType.FLOAT:
        initializers = build.graph.initializers
        if UNDEFINED in initializers:
            return initializers[UNDEFINED]
        return _add_initializer(build.graph, ir.tensor(0.0, dtype=ir.DataType.FLOAT, name=UNDEFINED))
    name = f"sim/zero {dtype}"
    if name in build.graph.initializers:
        return build.graph.initializers[name]
    return _add_initializer(build.graph, ir.tensor(False if dtype == ir.DataType.BOOL else 0, dtype=dtype, name=name))


def _swap(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node], result: ir.Value) -> None:
    old = node.outputs[0]
    name, result.shape, result.type = old.name, old.shape, old.type
    old.name = None
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [result])
    result.name = name
