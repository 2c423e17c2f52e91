"""Constants of matmuls: folded to the operand of the multiplication, and stored as MXFP6 if enabled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from QEfficient.simulator import numerics
from QEfficient.simulator.passes.expand import all_graphs, shape_of
from QEfficient.simulator.passes.packed import BITS

_MATMULS = ("MatMul", "Gemm")
_FOLDED = ("Cast", "Identity", "Transpose")


def fold_matmul_constants(model: ir.Model) -> None:
    """MatMul(x, Transpose(Cast(constant))) → MatMul(x, constant')."""
    for node, index, value in _operands(model):
        chain = _chain(value)
        if chain:
            node.replace_input_with(index, _derived(chain[-1].inputs[0], value, chain))


def quantise_matmul_constants(model: ir.Model, excluded: frozenset[str], variant: str) -> None:
    """Round constants of matmuls to MXFP6, in blocks along the contracted axis.

    Other readers of such a constant (an embedding) see the original values. A bank of weights that a Gather along the
    first axis indexes is stored in MXFP6 as well.

    Args:
        model: flat, its constants folded.
        excluded: names of weights or outputs whose matmul keeps fp16.
        variant: see :func:`QEfficient.simulator.numerics.round_mxfp6`.
    """
    for node, index, value in _operands(model):
        reader, position = node, index
        producer = value.producer()
        if producer is not None and _picks_from_bank(producer):
            reader, position, value = producer, 0, producer.inputs[0]
        if not value.is_initializer() or value.dtype != ir.DataType.FLOAT or len(value.shape or ()) < 1:
            continue
        if BITS in value.meta:
            continue  # a bank that two matmuls share, or packed by the checkpoint
        if {node.outputs[0].name, value.name, value.meta.get("source")} & excluded:
            continue
        axis = _contracted_axis(node, index, len(value.shape))
        quantise = partial(numerics.round_mxfp6, axis=axis, variant=variant)
        stored = _replacement(value, f"mxfp6/{axis}", quantise)
        stored.meta[BITS] = numerics.MXFP6_BITS
        reader.replace_input_with(position, stored)


def _operands(model: ir.Model) -> list[tuple[ir.Node, int, Any]]:
    """Both operands of each matmul: the node, the operand's index, its value."""
    nodes = [node for graph in all_graphs(model) for node in graph if node.op_type in _MATMULS]
    return [(node, index, node.inputs[index]) for node in nodes for index in (0, 1)]


def _chain(value: Any) -> list[ir.Node]:
    """The operators from a float constant to ``value``, last first; empty if there is no such constant."""
    chain: list[ir.Node] = []
    while (producer := value.producer()) is not None and producer.op_type in _FOLDED:
        if producer.outputs[0].dtype != ir.DataType.FLOAT or producer.inputs[0].dtype != ir.DataType.FLOAT:
            return []
        chain.append(producer)
        value = producer.inputs[0]
    return chain if value.is_initializer() else []


def _derived(source: Any, result: ir.Value, chain: list[ir.Node]) -> ir.Value:
    permutations = [node.attributes.get("perm") for node in reversed(chain) if node.op_type == "Transpose"]
    axes = [list(permutation.as_ints()) if permutation is not None else None for permutation in permutations]

    def transpose(values: NDArray) -> NDArray:
        for permutation in axes:
            values = np.transpose(values, permutation)
        return np.ascontiguousarray(values)

    shape = list(range(len(source.shape)))
    for permutation in axes:
        shape = [shape[axis] for axis in permutation] if permutation is not None else shape[::-1]
    dims = [source.shape[axis] for axis in shape]
    folded = _replacement(source, f"folded/{result.name}", transpose, dims)
    folded.meta["source"] = source.name
    return folded


def _replacement(
    source: Any, suffix: str, function: Callable[[NDArray], NDArray], dims: list[int] | None = None
) -> ir.Value:
    """A new initializer beside ``source``, computed from it when it is written."""
    tensor = source.const_value
    shape = ir.Shape(dims) if dims is not None else shape_of(tensor)
    name = f"{source.name}/{suffix}"
    graph = source.graph
    if name in graph.initializers:
        return graph.initializers[name]
    lazy = ir.LazyTensor(lambda: ir.tensor(function(tensor.numpy())), dtype=ir.DataType.FLOAT, shape=shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=lazy)
    value.meta.update(source.meta)
    graph.register_initializer(value)
    return value


def _picks_from_bank(node: Any) -> bool:
    """Whether this is a Gather along the first axis of a constant that only matmuls read."""
    axis = node.attributes.get("axis")
    return (
        node.op_type == "Gather"
        and (axis is None or axis.as_int() == 0)
        and node.inputs[0].is_initializer()
        and len(node.inputs[0].shape or ()) >= 3
        and all(user.op_type in _MATMULS for user in node.outputs[0].consumers())
    )


def _contracted_axis(node: ir.Node, index: int, rank: int) -> int:
    """Of operand ``index``, counted from the end."""
    if rank == 1:
        return -1
    name = ("transA", "transB")[index]
    is_transposed = node.op_type == "Gemm" and name in node.attributes and node.attributes[name].as_int() == 1
    return (-1, -2)[index ^ is_transposed]
