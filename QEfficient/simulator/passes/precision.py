"""fp16 as the card computes it: every operation returns fp16, sums inside a matmul stay in float32.

    y = Op(x)  ->  y = Cast<float>(Cast<float16>(Op(x)))

ONNX Runtime computes in float32; the pair of casts rounds to nearest even, and beyond ±65504 to infinity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from QEfficient.simulator import numerics
from QEfficient.simulator.compiler.configuration import NodePrecision
from QEfficient.simulator.passes.expand import EXACT, ROUNDS_TO, all_graphs, operation, shape_of
from QEfficient.simulator.passes.packed import BITS

MOVES = frozenset(
    [
        "Abs",
        "Ceil",
        "Compress",
        "Concat",
        "ConcatFromSequence",
        "Constant",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "EyeLike",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Identity",
        "If",
        "Loop",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "OneHot",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Round",
        "Scan",
        "ScatterElements",
        "ScatterND",
        "Sign",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)
"""Operators that return input values, integers, or values of subgraphs that are already rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Selects the nodes that compute in fp16."""

    fp16: bool
    nodes: NodePrecision = field(default_factory=NodePrecision)

    def is_fp16(self, node: ir.Node) -> bool:
        """Whether the card computes this node in fp16."""
        name = operation(node.outputs[0].name or "") if node.outputs else None
        return name in self.nodes.fp16 or (self.fp16 and name not in self.nodes.fp32)


def round_values(model: ir.Model, policy: Policy, exact_inputs: frozenset[str]) -> list[str]:
    """Round nodes, inputs and constants where nodes read them that compute in fp16.

    Args:
        model: flat, with types; changed in place.
        policy: which nodes compute in fp16.
        exact_inputs: graph inputs whose values are fp16 already.

    Returns:
        A list that contains, after the constants are written, the names of those that overflow fp16.
    """
    fp16 = {node for graph in all_graphs(model) for node in graph if policy.is_fp16(node)}
    overflowed: list[str] = []
    _round_constants(model, fp16, overflowed)
    for graph in all_graphs(model):
        for node in list(graph):
            if node not in fp16 and ROUNDS_TO not in node.meta:
                _round_for_readers(graph, node, node.outputs, fp16)
            elif node.meta.get(EXACT) is None and (node.op_type not in MOVES):
                target = ir.DataType.FLOAT16 if node in fp16 else node.meta[ROUNDS_TO]
                for output in node.outputs:
                    if output.dtype == ir.DataType.FLOAT:
                        _round_everywhere(graph, node, output, target)
        inputs = [value for value in graph.inputs if value.name not in exact_inputs]
        _round_for_readers(graph, None, inputs, fp16)
    return overflowed


def _round_constants(model: ir.Model, fp16: set[ir.Node], overflowed: list[str]) -> None:
    for value in list(model.graph.initializers.values()):
        readers = [usage for usage in value.uses() if usage.node in fp16 and EXACT not in usage.node.meta]
        if value.dtype != ir.DataType.FLOAT or not readers:
            continue
        is_mixed = len(readers) < len(value.uses())
        rounded = value
        if is_mixed or value.is_graph_output():
            rounded = ir.Value(name=f"{value.name}/fp16", shape=value.shape, type=value.type)
            rounded.meta.update(value.meta)
            for usage in readers:
                usage.node.replace_input_with(usage.idx, rounded)
        assert value.const_value is not None
        rounded.const_value = _rounded(value.const_value, str(value.name), overflowed)
        rounded.meta.setdefault(BITS, 16)
        if rounded is not value:
            model.graph.register_initializer(rounded)


def _rounded(tensor: ir.TensorProtocol, name: str, overflowed: list[str]) -> ir.TensorProtocol:
    def load() -> ir.TensorProtocol:
        values: NDArray = tensor.numpy()
        rounded = numerics.round_fp16(values)
        if not np.array_equal(np.isinf(rounded), np.isinf(values)):
            overflowed.append(name)
        return ir.tensor(rounded)

    return ir.LazyTensor(load, dtype=ir.DataType.FLOAT, shape=shape_of(tensor), name=tensor.name)


def _round_everywhere(graph: ir.Graph, node: ir.Node, value: ir.Value, target: ir.DataType) -> None:
    """Replace ``value`` with its rounded value for all readers; the new value takes its name."""
    name, uses = value.name, list(value.uses())
    narrow, wide = _pair(value, target)
    graph.insert_after(node, [narrow, wide])
    for usage in uses:
        usage.node.replace_input_with(usage.idx, wide.outputs[0])
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = wide.outputs[0]
    value.name, wide.outputs[0].name = f"{name}/fp32", name


def _round_for_readers(graph: ir.Graph, node: ir.Node | None, values: Iterable[ir.Value], fp16: set[ir.Node]) -> None:
    """Replace ``value`` with a rounded value for readers that compute in fp16."""
    for value in values:
        readers = [usage for usage in value.uses() if usage.node in fp16]
        if value.dtype != ir.DataType.FLOAT or not readers or (node is not None and EXACT in node.meta):
            continue
        narrow, wide = _pair(value, ir.DataType.FLOAT16)
        wide.outputs[0].name = f"{value.name}/fp16"
        if node is None:
            graph.insert_before(graph[0], [narrow, wide])
        else:
            graph.insert_after(node, [narrow, wide])
        for usage in readers:
            usage.node.replace_input_with(usage.idx, wide.outputs[0])


def _pair(value: ir.Value, target: ir.DataType) -> tuple[ir.Node, ir.Node]:
    narrow = ir.node("Cast", [value], {"to": int(target)})
    narrow.outputs[0].name = f"{value.name}/narrow"
    wide = ir.node("Cast", narrow.outputs, {"to": int(ir.DataType.FLOAT)})
    for cast, dtype in ((narrow, target), (wide, ir.DataType.FLOAT)):
        cast.outputs[0].dtype = dtype
        cast.outputs[0].shape = value.shape
    return narrow, wide
