"""Rejects constructs in a flat graph that the card's compiler is known to reject."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from QEfficient.simulator.rejection import Rejected

_SHAPE_OPS = frozenset({"Shape", "Size"})
_RANDOM_OPS = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"})
_VALUE_SIZED_OPS = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit"})
"""Operators whose output shape depends on input values."""

_SHAPE_OPERANDS = {
    "Range": (0, 1, 2),
    "Expand": (1,),
    "Tile": (1,),
    "Reshape": (1,),
    "ConstantOfShape": (0,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Resize": (2, 3),
    "TopK": (1,),
    "OneHot": (1,),
    "Split": (1,),
    "Unsqueeze": (1,),
    "Squeeze": (1,),
}
"""Operands that determine the output's shape."""

_FOLDED_DOMAINS = frozenset({"com.qualcomm.cloud", "com.qti.aisw.onnx"})
"""Small functions that the compiler always inlines or knows."""


def check_functions(model: ir.Model, sub_functions: bool) -> None:
    """Reject constructs that fail inside a function that stays a sub-function.

    There the repeats of an Expand or Tile are not constant if they come from values of the function's inputs.

    Args:
        model: as it was exported, its functions not inlined.
        sub_functions: whether ``-sub-functions`` is set; otherwise all functions are inlined.
    """
    if not sub_functions:
        return
    for function in model.functions.values():
        if function.domain in _FOLDED_DOMAINS:
            continue
        static: set[ir.Value] = set()
        for node in function:
            called = model.functions.get(node.op_identifier())
            if called is not None:
                _note_call(called, node, static)
            elif node.op_type in ("Expand", "Tile") and node.inputs[1] not in static:
                raise Rejected(_repeats(function, node))
            _note(node, static)


def _note_call(function: ir.Function, node: ir.Node, outer: set[ir.Value]) -> None:
    static = {parameter for parameter, value in zip(function.inputs, node.inputs, strict=False) if value in outer}
    for inner in function:
        if inner.op_type in ("Expand", "Tile") and inner.inputs[1] not in static:
            raise Rejected(_repeats(function, inner))
        _note(inner, static)


def _repeats(function: ir.Function, node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r} in function {function.name}: non-constant repeats are not supported."


def check_graph(model: ir.Model) -> None:
    """Reject constructs that the compiler cannot make static.

    Args:
        model: flat, with types.

    Raises:
        Rejected: with the compiler's message, where it is known.
    """
    static = set(model.graph.initializers.values())
    for node in _in_order(model.graph):
        _check_node(node, static)
        _note(node, static)


def _in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes in topological order; those inside a node before it."""
    for node in graph:
        for inner in _bodies(node):
            yield from _in_order(inner)
        yield node


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()


def _note(node: ir.Node, static: set[ir.Value]) -> None:
    """A value is static if it follows from constants and shapes alone."""
    follows = all(value is None or value in static or value.is_initializer() for value in node.inputs)
    follows = follows and node.op_type not in _RANDOM_OPS and not any(_bodies(node))
    if follows or node.op_type in _SHAPE_OPS or node.op_type == "Constant":
        static.update(node.outputs)


def _check_node(node: ir.Node, static: set[ir.Value]) -> None:
    if node.op_type == "If":
        _check_if(node, static)
    elif node.op_type == "Loop":
        if any(value is not None and value not in static for value in node.inputs[:2]):
            raise Rejected(f"Loop {node.name!r}: the number of its turns depends on data.")
    elif node.op_type == "Cast":
        source, target = node.inputs[0], node.outputs[0]
        if source is not None and (source.dtype, target.dtype) == (ir.DataType.UINT8, ir.DataType.INT32):
            raise Rejected(f"Cast {node.name!r} from uint8 to int32: Unsupported cast from quantized type.")
    elif node.op_type == "Concat":
        types = sorted({str(value.dtype) for value in node.inputs if value is not None and value.dtype is not None})
        if len(types) > 1:
            raise Rejected(f"Concat {node.name!r}: index tensors must be of one type, got {', '.join(types)}.")
    _check_shape(node, static)


def _check_if(node: ir.Node, static: set[ir.Value]) -> None:
    condition = node.inputs[0]
    if condition not in static:
        raise Rejected(f"{node.name!r} If: Non-constant condition tensor not supported.")
    producer = condition.producer()
    if producer is not None and producer.op_type == "Or":
        raise Rejected(f"{node.name!r} If: a condition that is an Or of shape comparisons is not supported.")
    if len(node.outputs) > 1:
        raise Rejected(f"{node.name!r} If: Only single output 'then' subgraph is supported.")


def _check_shape(node: ir.Node, static: set[ir.Value]) -> None:
    operands = range(len(node.inputs)) if node.op_type in _VALUE_SIZED_OPS else _SHAPE_OPERANDS.get(node.op_type, ())
    for index in operands:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value not in static:
            raise Rejected(
                f"{node.op_type} {node.name!r}: the shape of {node.outputs[0].name} depends on data "
                f"(operand {index}, {value.name}); only static shapes are supported."
            )
