"""``w * (x / sqrt(mean(x * x) + eps)) -> CustomRMSNorm(x, w)``, in any architecture.

x * x overflows fp16 from |x| = 256 on, which occurs in practice. The card's compiler has a kernel of this name that
does not square in fp16; other runtimes run the function's body, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

DOMAIN = "com.qti.aisw.onnx"
NAME = "CustomRMSNorm"
_qti = Opset(DOMAIN, 1)


@script(_qti, default_opset=op)
def CustomRMSNorm(hidden_states, weight, epsilon: float):  # type: ignore[no-untyped-def]
    """hidden_states [..., D], weight [D] -> [..., D]"""
    square = op.Mul(hidden_states, hidden_states)
    mean = op.ReduceMean(square, op.Constant(value_ints=[-1]), keepdims=1)
    scale = op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=epsilon))))
    return op.Mul(op.Mul(hidden_states, scale), weight)


@dataclass(frozen=True)
class _Norm:
    """A subgraph that computes a norm."""

    states: ir.Value
    weight: ir.Value | None
    epsilon: float
    last: ir.Node
    """The node whose output is the norm."""


def apply(model: ir.Model) -> int:
    """Rewrite in place."""
    norms = [norm for node in list(model.graph) if (norm := _match(node)) is not None]
    for norm in norms:
        _replace(model, norm)
    if norms:
        function = ir.serde.deserialize_function(CustomRMSNorm.to_function_proto())
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return len(norms)


def _match(mean: ir.Node) -> _Norm | None:
    """The norm around a ``ReduceMean`` over the last axis, or None."""
    states = _squared(mean.inputs[0]) if mean.op_type == "ReduceMean" else None
    if states is None or not _is_over_last_axis(mean, states):
        return None
    added = _user(mean.outputs[0], "Add")
    if added is None or (epsilon := _other_constant(added, mean.outputs[0])) is None:
        return None
    scaled = _times_inverse_root(added.outputs[0], states)
    if scaled is None:
        return None
    weighted = _user(scaled.outputs[0], "Mul")
    weight = None if weighted is None else _other_input(weighted, scaled.outputs[0])
    if weighted is None or weight is None or weight.shape is None or len(weight.shape) != 1:
        return _Norm(states, None, epsilon, scaled)
    return _Norm(states, weight, epsilon, weighted)


def _is_over_last_axis(mean: ir.Node, states: ir.Value) -> bool:
    axes = _constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    keeps = mean.attributes.get("keepdims")
    if axes is None or axes.size != 1 or (keeps is not None and keeps.as_int() != 1):
        return False
    return int(axes.item()) in (-1, *(() if states.shape is None else (len(states.shape) - 1,)))


def _squared(value: ir.Value | None) -> ir.Value | None:
    """x where ``value`` is x * x or x ** 2."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    exponent = _constant(node.inputs[1]) if node.op_type == "Pow" else None
    return node.inputs[0] if exponent is not None and exponent.size == 1 and float(exponent.item()) == 2 else None


def _times_inverse_root(value: ir.Value, states: ir.Value) -> ir.Node | None:
    """The node that multiplies ``states`` by value ** -0.5, in one of the ways to write it."""
    power = _user(value, "Pow")
    if power is not None:
        exponent = _constant(power.inputs[1])
        inverse = power if exponent is not None and exponent.size == 1 and float(exponent.item()) == -0.5 else None
    else:
        root = _user(value, "Sqrt")
        if root is None:
            return None
        divided = _user(root.outputs[0], "Div")
        if divided is not None:
            return divided if divided.inputs[0] is states else None
        inverse = _user(root.outputs[0], "Reciprocal")
    product = _user(inverse.outputs[0], "Mul") if inverse is not None else None
    return product if product is not None and states in product.inputs else None


def _user(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node that uses ``value``, if it is the only one and of this kind."""
    users = list(value.uses())
    if len(users) != 1 or value.is_graph_output() or users[0].node.op_type != op_type:
        return None
    return users[0].node


def _other_input(node: ir.Node, known: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is known else node.inputs[0]


def _other_constant(node: ir.Node, known: ir.Value) -> float | None:
    array = _constant(_other_input(node, known))
    return float(array.item()) if array is not None and array.size == 1 else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None or tensor.size > 16 else tensor.numpy()


def _replace(model: ir.Model, norm: _Norm) -> None:
    weight = norm.weight if norm.weight is not None else _ones(model, norm.states)
    if weight is None:
        return
    node = ir.node(NAME, [norm.states, weight], {"epsilon": norm.epsilon}, domain=DOMAIN)
    old, new = norm.last.outputs[0], node.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    node.name = norm.last.name
    node.metadata_props.update(norm.last.metadata_props)
    model.graph.insert_after(norm.last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(norm.last, safe=True)


def _ones(model: ir.Model, states: ir.Value) -> ir.Value | None:
    """A weight for a norm that has none."""
    size = states.shape[-1] if states.shape is not None else None
    if not isinstance(size, int):
        return None
    name = f"ones.{size}"
    if name not in model.graph.initializers:
        ones = ir.tensor(np.ones(size, np.float32), name=name)
        weight = ir.Value(name=name, shape=ir.Shape([size]), type=ir.TensorType(ones.dtype), const_value=ones)
        model.graph.initializers[name] = weight
    return model.graph.initializers[name]
