"""Brings a traced program to the operators that torch.onnx writes, running again only the nodes that need it.

``run_decompositions`` of torch.export traces the whole graph twice more. One in five nodes of a transformer decomposes
or writes in place: only those run again here, under torch's functionalization and decompositions, and the others are
copied.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _is_cia_op
from torch._functorch._aot_autograd.functional_utils import from_fun, has_data_mutation
from torch._guards import detect_fake_mode
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode, disable_functional_mode
from torch.export import exported_program
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    _GraphAppendingTracerEx,
    get_proxy_slot,
    track_tensor,
    track_tensor_tree,
)
from torch.onnx._internal.exporter import _decomp
from torch.onnx._internal.exporter._registration import ONNXRegistry

_SHAPES = (torch.SymInt, torch.SymFloat, torch.SymBool)
_NOTES = ("nn_module_stack", "stack_trace")


def decompose(program: torch.export.ExportedProgram, registry: ONNXRegistry) -> bool:
    """Decompose ``program`` in place.

    Args:
        program: from torch.export.
        registry: operators with an ONNX translation, which need no decomposition.

    Returns:
        False, without changes, where ``run_decompositions`` is needed: the graph has subgraphs, or writes to its inputs
        or buffers.
    """
    module = program.graph_module
    if any(_is_beyond(node) for node in module.graph.nodes):
        return False
    rules = _rules(frozenset(_decomp.get_onnx_implemented_overloads(registry)))
    retrace = _Retrace(module.graph, rules, _written(module.graph))
    retrace.run()
    if retrace.writes_to_inputs():
        return False
    renamed = retrace.renamed()
    for spec in program.graph_signature.output_specs:
        spec.arg.name = renamed.get(spec.arg.name, spec.arg.name)
    program._graph_module = fx.GraphModule(module, retrace.graph)
    program._graph_module.meta.update(module.meta)
    return True


def _is_beyond(node: fx.Node) -> bool:
    return node.op == "get_attr" or isinstance(node.target, HigherOrderOperator)


@dataclass(frozen=True)
class _Rules:
    """The decomposition of each operator."""

    table: Mapping[Any, Callable[..., Any]]
    kept_composites: Mapping[Any, Callable[..., Any]]

    def decomposes(self, target: Any) -> bool:
        if not isinstance(target, OpOverload):
            return False
        if target in self.table:
            return True
        return _is_cia_op(target) and target not in self.kept_composites


@functools.lru_cache(maxsize=4)
def _rules(written_as_they_are: frozenset[Any]) -> _Rules:
    table = _decomp.create_onnx_friendly_decomposition_table(set(written_as_they_are))
    composites, table = exported_program._split_decomp_table_to_cia_and_python_decomp(table)
    keep = exported_program._special_op_to_preserve_cia
    return _Rules(table, {target: how for target, how in composites.items() if how is keep})


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Every node that may share memory with a node written in place."""
    above: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        while node in above:
            node = above[node]
        return node

    targets: list[fx.Node] = []
    for node in graph.nodes:
        for source in _shares_memory_with(node):
            if root(source) is not root(node):
                above[root(source)] = root(node)
        targets += _writes_to(node)
    roots = {root(node) for node in targets}
    return {node for node in graph.nodes if root(node) in roots} if roots else set()


def _shares_memory_with(node: fx.Node) -> list[fx.Node]:
    if node.target is operator.getitem:
        return list(node.all_input_nodes)
    if not isinstance(node.target, OpOverload):
        return []
    if torch.Tag.maybe_aliasing_or_mutating in node.target.tags:
        return list(node.all_input_nodes)
    return list(_arguments(node, lambda alias: True))


def _writes_to(node: fx.Node) -> list[fx.Node]:
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return []
    return list(_arguments(node, lambda alias: alias.is_write))


def _arguments(node: fx.Node, chosen: Callable[[Any], bool]) -> Iterator[fx.Node]:
    """The node's inputs with alias information in its schema, where ``chosen``."""
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and chosen(argument.alias_info):
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            values = value if isinstance(value, list | tuple) else [value]
            yield from (item for item in values if isinstance(item, fx.Node))


class _Retrace:
    """One pass over ``old`` that makes ``graph``."""

    def __init__(self, old: fx.Graph, rules: _Rules, written: set[fx.Node]):
        self.old, self.rules, self.written = old, rules, written
        self.graph = fx.Graph()
        self._copies: dict[fx.Node, Any] = {}
        """Each old node's replacement in the new graph."""
        self._values: dict[fx.Node, Any] = {}
        """Values to run with; of ``written`` nodes those in functionalization, which change."""
        self._tracer = _GraphAppendingTracerEx(self.graph)

    def run(self) -> None:
        """Fill ``graph``."""
        with ExitStack() as modes:
            is_tracing = False
            for node in self.old.nodes:
                runs = node.op == "call_function" and self._must_run(node)
                if (runs or node in self.written) and not is_tracing:
                    self._enter(modes)
                    is_tracing = True
                last = next(reversed(self.graph.nodes), None)
                self._run(node) if runs else self._copy(node)
                self._annotate(last, node)
        self.graph.eliminate_dead_code()  # sizes that turned out to be numbers

    def renamed(self) -> dict[str, str]:
        """New names of the graph's outputs."""
        old, new = self.old.output_node().all_input_nodes, self.graph.output_node().all_input_nodes
        return {before.name: after.name for before, after in zip(old, new, strict=True)}

    def writes_to_inputs(self) -> bool:
        """Whether the graph changes an input."""
        inputs = (node for node in self.written if node.op == "placeholder")
        return any(has_data_mutation(self._values[node]) for node in inputs)

    def _enter(self, modes: ExitStack) -> None:
        values = [node.meta.get("val") for node in self.old.nodes if node.op == "placeholder"]
        table = dict(self.rules.table)
        modes.enter_context(exported_program._override_composite_implicit_decomp(self.rules.kept_composites))
        modes.enter_context(enable_python_dispatcher())
        modes.enter_context(detect_fake_mode(values))
        modes.enter_context(ProxyTorchDispatchMode(self._tracer, "symbolic", decomposition_table=table))
        modes.enter_context(FunctionalTensorMode())

    def _must_run(self, node: fx.Node) -> bool:
        return node in self.written or "val" not in node.meta or self.rules.decomposes(node.target)

    def _copy(self, node: fx.Node) -> None:
        if node.target is operator.getitem and not isinstance(source := self._copied(node.args[0]), fx.Node):
            self._copies[node] = source[node.args[1]]
            self._values[node] = self._values[node.args[0]][node.args[1]]
            return
        if node.target is torch.ops.aten.alias.default:
            self._copies[node] = self._copied(node.args[0])  # torch.onnx has no operator for an output that is one
            return
        self._copies[node] = self.graph.node_copy(node, self._copied)
        if node in self.written:
            self._values[node] = self._value(node)

    def _copied(self, node: Any) -> Any:
        if node in self.written and node in self._values:
            with disable_functional_mode():
                return fx.node.map_aggregate(self._values[node], self._node_of)
        return self._copies[node]

    def _run(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
        output = node.target(*args, **kwargs)
        self._values[node] = output
        if node not in self.written:
            with disable_functional_mode():
                self._copies[node] = fx.node.map_aggregate(output, self._node_of)

    def _value(self, node: fx.Node) -> Any:
        """The value of ``node`` to run with; a copied node's is known to the tracer from here on."""
        if node not in self._values:
            value, proxy = node.meta["val"], fx.Proxy(self._copies[node], self._tracer)
            if isinstance(value, torch.Tensor):
                track_tensor(value, proxy, constant=None, tracer=self._tracer)
                value = FunctionalTensor.to_functional(value)
            else:
                track_tensor_tree(value, proxy, constant=None, tracer=self._tracer)
            self._values[node] = value
        return self._values[node]

    def _node_of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return get_proxy_slot(from_fun(value), self._tracer).proxy.node
        if isinstance(value, _SHAPES):
            return get_proxy_slot(value, self._tracer).force().node
        return value

    def _annotate(self, last: fx.Node | None, node: fx.Node) -> None:
        """Note on every node after ``last`` where in the model it comes from."""
        notes = {name: node.meta[name] for name in _NOTES if name in node.meta}
        made = reversed(self.graph.nodes)
        for new in made:
            if new is last:
                return
            new.meta.update(notes)
