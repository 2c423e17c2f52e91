"""Copies the nodes of traced layers for the layers that the trace passed by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from QEfficient.errors import ExportError
from QEfficient.exporter.layer_kinds import Repeats, without_number
from QEfficient.exporter.layers import SCOPES
from QEfficient.exporter.traced_layers import EDGE
from QEfficient.exporter.weights import Weight
from QEfficient.transformers.checkpoint.source import WeightSource
from QEfficient.transformers.tasks.graph_spec import TaskGraph


def copy_layers(model: ir.Model, graph: TaskGraph, repeats: Iterable[Repeats], source: WeightSource) -> None:
    """Give ``model`` the nodes of every layer, and remove the marks of the trace.

    Args:
        model: traced within :func:`QEfficient.exporter.traced_layers.passing_by`, with its weights attached; changed
            in place.
        graph: what was traced.
        repeats: its lists of layers.
        source: the weights.
    """
    for of_list in repeats:
        _Copies(model.graph, graph, of_list, source).insert()
    edges = [node for node in model.graph if node.op_type == EDGE]
    for node in edges:
        entered = node.inputs[0]
        assert entered is not None
        _replace_output(model.graph, node.outputs[0], entered)
        ir.convenience.replace_all_uses_with(node.outputs[0], entered)
        model.graph.remove(node, safe=True)
    if edges:
        model.graph.sort()
        RemoveUnusedNodesPass()(model)


class _Copies:
    """The copies of one list's layers."""

    def __init__(self, ir_graph: ir.Graph, graph: TaskGraph, repeats: Repeats, source: WeightSource):
        self._graph, self._repeats = ir_graph, repeats
        self._edges = {node.attributes["label"].as_string(): node for node in ir_graph if node.op_type == EDGE}
        self._inputs = {str(value.name): value for value in ir_graph.inputs}
        names = {id(fake): source.name_of(parameter) for fake, parameter in graph.lowered.parameters}
        self._weights = [
            {path: names[id(fake)] for path, fake in graph.module.get_submodule(run.path).named_parameters()}
            for run in repeats.runs
        ]
        """For each layer, the name in the source of each of its parameters."""
        self._paths: list[dict[str | None, str]] = [
            {source_name: path for path, source_name in weights.items()} for weights in self._weights
        ]
        self._outputs = {str(value.name): value for value in ir_graph.outputs}
        self._bodies = {index: list(self._body(index)) for index in set(repeats.stands_for)}

    def insert(self) -> None:
        """Insert every layer that was not traced after the one before it."""
        stands_for = self._repeats.stands_for
        traced = [index for index, first in enumerate(stands_for) if index == first]
        for start, end in pairwise([*traced, len(stands_for)]):
            leaving = {leaf: self._edge(start, "out", leaf).outputs[0] for leaf in self._repeats.leaving}
            uses = {leaf: list(value.uses()) for leaf, value in leaving.items()}
            last, handed_on = self._edge(start, "out", self._repeats.leaving[-1]), leaving
            for index in range(start + 1, end):
                last, handed_on = self._copy(index, last, handed_on)
            if end > start + 1:
                for leaf, value in leaving.items():
                    for node, position in uses[leaf]:
                        node.replace_input_with(position, handed_on[leaf])
                    _replace_output(self._graph, value, handed_on[leaf])

    def _edge(self, index: int, side: str, leaf: int) -> ir.Node:
        label = self._repeats.label(index, side, leaf)
        if label not in self._edges:
            raise ExportError(f"The traced graph has no mark '{label}'. Please report it with the model's config.")
        return self._edges[label]

    def _body(self, index: int) -> Iterator[ir.Node]:
        """The nodes of a traced layer that depend on its inputs, weights or state, in order, without the marks."""
        depending: set[ir.Value | None] = {self._edge(index, "in", leaf).outputs[0] for leaf in self._repeats.chain}
        depending |= {value for value in self._graph.initializers.values() if _source_name(value) in self._paths[index]}
        depending |= {value for name, value in self._inputs.items() if name in self._repeats.state[index]}
        after: list[ir.Node] = []
        for node in self._graph:
            if node.op_type != EDGE and not _is_size(node) and any(value in depending for value in node.inputs):
                after.append(node)
                depending.update(node.outputs)
        needed: set[ir.Value | None] = set(self._ends(index).values())
        needed |= {value for value in self._graph.outputs if value.name in self._repeats.state[index]}
        body = []
        for node in reversed(after):
            if any(value in needed for value in node.outputs):
                body.append(node)
                needed.update(node.inputs)
        return reversed(body)

    def _copy(self, index: int, after: ir.Node, entering: dict[int, ir.Value]) -> tuple[ir.Node, dict[int, ir.Value]]:
        """Insert layer ``index``; its last node, and what leaves it."""
        first = self._repeats.stands_for[index]
        copies: dict[ir.Value, ir.Value] = {
            self._edge(first, "in", leaf).outputs[0]: entering[number] for leaf, number in self._repeats.chain.items()
        }
        for node in self._bodies[first]:
            inputs = [None if v is None else self._copied(v, first, index, copies) for v in node.inputs]
            new = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                node.attributes,
                overload=node.overload,
                num_outputs=len(node.outputs),
                version=node.version,
                name=f"{node.name}.{index}",
                metadata_props=self._metadata(node, first, index),
            )
            self._graph.insert_after(after, new)
            after = new
            for old, value in zip(node.outputs, new.outputs, strict=True):
                value.type, value.shape = old.type, old.shape
                value.name = f"{old.name}.{index}"
                copies[old] = value
                if old.name in self._repeats.state[first]:
                    passed_by = self._outputs.get(_renumbered(str(old.name), first, index))
                    if passed_by is not None:
                        _replace_output(self._graph, passed_by, value)
        return after, {leaf: copies[end] for leaf, end in self._ends(first).items()}

    def _ends(self, index: int) -> dict[int, ir.Value]:
        """What leaves a traced layer, before its marks."""
        ends = {leaf: self._edge(index, "out", leaf).inputs[0] for leaf in self._repeats.leaving}
        return {leaf: end for leaf, end in ends.items() if end is not None}

    def _copied(self, value: ir.Value, first: int, index: int, copies: dict[ir.Value, ir.Value]) -> ir.Value:
        """What stands for ``value`` in layer ``index``; values from outside of the layer stand for themselves."""
        if value in copies:
            return copies[value]
        name = str(value.name)
        if self._inputs.get(name) is value:
            return self._inputs[_renumbered(name, first, index)] if name in self._repeats.state[first] else value
        path = self._paths[first].get(_source_name(value))
        if path is None:
            return value
        copies[value] = self._weight(value, path, first, index)
        return copies[value]

    def _weight(self, value: ir.Value, path: str, first: int, index: int) -> ir.Value:
        """The initializer of layer ``index`` that ``value`` is of layer ``first``."""
        prefix, number, end = str(value.name).rpartition(f"{first}.{path}")
        name = f"{prefix}{index}.{path}{end}" if number else f"{self._repeats.runs[index].path}.{path}"
        assert isinstance(value.const_value, Weight)
        weight = value.const_value.renamed(self._weights[index][path])
        weight.name = name
        new = ir.Value(name=name, type=value.type, shape=value.shape, const_value=weight)
        self._graph.register_initializer(new)
        return new

    def _metadata(self, node: ir.Node, first: int, index: int) -> dict[str, str]:
        runs = self._repeats.runs
        scopes = node.metadata_props.get(SCOPES, "")
        return {SCOPES: re.sub(rf"{re.escape(runs[first].path)}(?=['.\"])", runs[index].path, scopes)}


def _replace_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make ``new`` the output that ``old`` is, if it is one."""
    for position, output in enumerate(graph.outputs):
        if output is old:
            name, old.name = old.name, f"{old.name}.passed_by"
            new.name, new.shape, new.type = name, old.shape, old.type
            graph.outputs[position] = new


def _is_size(node: ir.Node) -> bool:
    """Whether a node reads sizes of an input: the named axes of alike layers' state are the same."""
    return node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].is_graph_input()


def _source_name(value: ir.Value) -> str | None:
    return value.const_value.source_name if isinstance(value.const_value, Weight) else None


def _renumbered(name: str, first: int, index: int) -> str:
    return without_number(name, first).replace(".#", f".{index}")
