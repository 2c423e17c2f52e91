"""Repeated layers -> calls of one function per form, so that a compiler compiles each form once.

A layer's nodes are those traced inside it (:data:`LAYER`). Nodes shared with other layers stay outside, weights become
inputs of the function, and small constants go into the body, where compilers expect shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from QEfficient.exporter.layers import LAYER

DOMAIN = "qeff.layers"
_SMALL = 64
"""Maximum number of elements of a constant in the body."""


def apply(model: ir.Model) -> int:
    """Rewrite in place.

    Returns:
        The number of layers that became calls; 0 if no form occurs twice.
    """
    forms: dict[str, list[_Layer]] = {}
    for nodes in _layers(model.graph):
        layer = _Layer.of(nodes)
        forms.setdefault(layer.form(), []).append(layer)
    repeated = [layers for layers in forms.values() if len(layers) > 1]
    for number, layers in enumerate(repeated):
        function = layers[0].as_function(f"Layer{number}", model.opset_imports)
        model.functions[function.identifier()] = function
        for layer in layers:
            layer.replace_by_call(model.graph, function.name)
    if repeated:
        model.opset_imports[DOMAIN] = 1
        model.graph.sort()
        RemoveUnusedNodesPass()(model)
    return sum(map(len, repeated))


def _layers(graph: ir.Graph) -> list[list[ir.Node]]:
    """The nodes of each layer in order, without those that other layers use too and what these are made of."""
    inside: dict[str, list[ir.Node]] = {}
    for node in graph:
        if (number := node.metadata_props.get(LAYER)) is not None:
            inside.setdefault(number, []).append(node)
    shared = _shared(node for nodes in inside.values() for node in nodes)
    return [[node for node in nodes if node not in shared] for nodes in inside.values()]


def _shared(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Nodes that another layer uses and that do not depend on this layer's input or state."""
    pending = [node for node in nodes if _is_used_elsewhere(node) and not _leaves_layer(node)]
    shared: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        if node not in shared:
            shared.add(node)
            number = node.metadata_props.get(LAYER)
            parents = (value.producer() for value in node.inputs if value is not None)
            pending += [p for p in parents if p is not None and p.metadata_props.get(LAYER) == number]
    return shared


def _is_used_elsewhere(node: ir.Node) -> bool:
    number = node.metadata_props.get(LAYER)
    return any(use.node.metadata_props.get(LAYER) != number for value in node.outputs for use in value.uses())


def _leaves_layer(node: ir.Node) -> bool:
    """Whether this is the layer's result: its end, or new state."""
    return any((value.name or "").startswith("layer.") or value.is_graph_output() for value in node.outputs)


@dataclass
class _Layer:
    """One layer's nodes, with their inputs and outputs."""

    nodes: list[ir.Node]
    inputs: list[ir.Value] = field(default_factory=list)
    """One per use of a weight; one per other value from outside."""
    outputs: list[ir.Value] = field(default_factory=list)
    places: dict[tuple[int, int], int] = field(default_factory=dict)
    """(node, input) -> which of ``inputs``."""

    @classmethod
    def of(cls, nodes: list[ir.Node]) -> _Layer:
        layer, inside = cls(nodes), set(nodes)
        seen: dict[ir.Value, int] = {}
        for i, node in enumerate(nodes):
            for j, value in enumerate(node.inputs):
                if value is None or value.producer() in inside or _is_small(value):
                    continue
                if value.is_initializer() or value not in seen:
                    seen[value] = len(layer.inputs)
                    layer.inputs.append(value)
                layer.places[i, j] = seen[value] if not value.is_initializer() else len(layer.inputs) - 1
            layer.outputs += [
                v for v in node.outputs if v.is_graph_output() or any(u.node not in inside for u in v.uses())
            ]
        return layer

    def form(self) -> str:
        """Equal for layers that one function can replace."""
        numbers = {value: (i, j) for i, node in enumerate(self.nodes) for j, value in enumerate(node.outputs)}
        described = []
        for i, node in enumerate(self.nodes):
            inputs = [self._origin(i, j, value, numbers) for j, value in enumerate(node.inputs)]
            attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
            described.append((node.domain, node.op_type, inputs, attributes, len(node.outputs)))
        outside = [(str(value.dtype), _static_shape(value)) for value in self.inputs]
        return str((described, outside, [numbers[value] for value in self.outputs]))

    def _origin(self, i: int, j: int, value: ir.Value | None, numbers: dict[ir.Value, tuple[int, int]]) -> object:
        """Where an input comes from: a number of ``inputs``, a place among the nodes, or a constant's content."""
        if value is None:
            return None
        if (i, j) in self.places:
            return self.places[i, j]
        return numbers[value] if value in numbers else _content(value)

    def as_function(self, name: str, opsets: dict[str, int]) -> ir.Function:
        """The function whose body is a copy of this layer."""
        formals = [ir.Value(name=f"input_{k}", type=v.type, shape=v.shape) for k, v in enumerate(self.inputs)]
        copies: dict[ir.Value, ir.Value] = {}
        body: list[ir.Node] = []
        for i, node in enumerate(self.nodes):
            inputs = [self._inner(i, j, value, formals, copies, body) for j, value in enumerate(node.inputs)]
            copied = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                node.attributes.values(),
                num_outputs=len(node.outputs),
                name=node.name,
            )
            for old, new in zip(node.outputs, copied.outputs, strict=True):
                new.name, new.type, new.shape = old.name, old.type, old.shape
                copies[old] = new
            body.append(copied)
        used = {node.domain for node in body} | {""}
        imports = {domain: version for domain, version in opsets.items() if domain in used}
        graph = ir.Graph(formals, [copies[v] for v in self.outputs], nodes=body, opset_imports=imports)
        return ir.Function(DOMAIN, name, graph=graph, attributes=[])

    def _inner(
        self,
        i: int,
        j: int,
        value: ir.Value | None,
        formals: list[ir.Value],
        copies: dict[ir.Value, ir.Value],
        body: list[ir.Node],
    ) -> ir.Value | None:
        """The replacement of a node's input in the function's body."""
        if value is None or (i, j) in self.places:
            return None if value is None else formals[self.places[i, j]]
        if value not in copies:
            constant = ir.node("Constant", [], {"value": value.const_value})
            constant.outputs[0].name = f"{value.name}.constant"
            body.append(constant)
            copies[value] = constant.outputs[0]
        return copies[value]

    def replace_by_call(self, graph: ir.Graph, name: str) -> None:
        """Replace the nodes with one call."""
        call = ir.Node(DOMAIN, name, self.inputs, num_outputs=len(self.outputs), name=f"{name}.{self.outputs[-1].name}")
        call.metadata_props.update(self.nodes[0].metadata_props)
        graph.insert_after(self.nodes[-1], call)
        for old, new in zip(self.outputs, call.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        for node in reversed(self.nodes):
            graph.remove(node, safe=True)


def _is_small(value: ir.Value) -> bool:
    """Whether this is a constant that goes into the body; a weight is read late and never does."""
    tensor = value.const_value if value.is_initializer() else None
    return tensor is not None and not isinstance(tensor, ir.LazyTensor) and tensor.size <= _SMALL


def _static_shape(value: ir.Value) -> str:
    """A weight's shape; nothing for what varies from step to step."""
    return str(value.shape) if value.shape is not None and value.shape.is_static() else ""


def _content(value: ir.Value) -> tuple[str, str, bytes]:
    tensor = value.const_value
    assert tensor is not None
    return str(tensor.dtype), str(tensor.shape), tensor.tobytes()
