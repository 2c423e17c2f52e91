"""A model's graph on prompts, in one of the card's numerics: exposes all values, and carries state between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from QEfficient.contract import RETAINED
from QEfficient.errors import CompileError
from QEfficient.exporter.layers import LAYER
from QEfficient.simulator.compiler.program import Lowering, lower, save_graph
from QEfficient.simulator.passes.expand import EXACT, expand, operation
from QEfficient.simulator.runtime.executor import open_session

LOGITS = "logits"

_NAMES_PER_RUN = 256
"""Values fetched in one run, all in memory."""

State = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class Step:
    """New tokens of the only sequence."""

    tokens: Sequence[int]
    start: int
    """Position of the first."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node of the flat graph."""

    name: str
    """Its first output."""
    op_type: str
    layer: int | None
    readers: frozenset[str]
    """Names of the nodes that read its output; an RMSNorm is one node."""


class GraphRun:
    """A graph in one of the card's numerics, ready to run.

    Attributes:
        names: first outputs of all nodes of the flat graph, in order of execution.
        nodes: those with float outputs that fp16 rounds, by name, in the same order.
        state_readers: names of the nodes that read each state, by input name.
    """

    def __init__(self, path: Path, folder: Path, lowering: Lowering, sizes: Mapping[str, int]):
        """
        Args:
            path: the exported graph.
            folder: to be created, for the rounded weights; must exist as long as this runs.
            lowering: the numerics.
            sizes: of the graph's named axes, other than ``seq_len``.

        Raises:
            Rejected: the compiler rejects an operator of the graph.
            CompileError: an input has an axis without a size.
        """
        folder.mkdir()
        model = ir.load(path)
        layers = _layers(model)
        expand(model)
        self._inputs = {str(value.name): value for value in model.graph.inputs}
        self._sizes = dict(sizes)
        self.names = [str(node.outputs[0].name) for node in model.graph]
        nodes = _nodes(model, layers)
        kept = {value.name for value in model.graph.outputs}
        states = [value for name, value in self._inputs.items() if f"{name}{RETAINED}" in kept]
        self.state_readers = {str(value.name): _readers([value]) for value in states}
        lower(model, lowering)
        values = {str(value.name): value for node in model.graph for value in node.outputs}
        self.nodes = {name: node for name, node in nodes.items() if name in values}
        outputs = {str(value.name) for value in model.graph.outputs}
        self._state = sorted(self.state_readers)
        model.graph.outputs.extend(values[name] for name in self.nodes if name not in outputs)
        self._session: Any = open_session(save_graph(model, folder), folder)

    def empty_state(self) -> State:
        """Zeros, one row."""
        return {name: self._zeros(name, seq_len=0) for name in self._state}

    def values(
        self, step: Step, state: State, names: Sequence[str], store: Callable[[str, NDArray], NDArray]
    ) -> Iterator[tuple[str, NDArray]]:
        """Run a step and yield the values of ``names``, in batches.

        Args:
            step: the tokens.
            state: by input name; replaced by the new state after the last value.
            names: values to yield, in order.
            store: rounds a state's array as the card stores it, by input name.
        """
        feeds, new = self._feeds(step) | state, [f"{name}{RETAINED}" for name in self._state]
        parts = [list(names[at : at + _NAMES_PER_RUN]) for at in range(0, len(names), _NAMES_PER_RUN)] or [[]]
        for part in parts[:-1]:
            yield from zip(part, self._session.run(part, feeds), strict=True)
        results = self._session.run([*parts[-1], *new], feeds)
        yield from zip(parts[-1], results, strict=False)
        kept = results[len(parts[-1]) :]
        state.update({name: store(name, value) for name, value in zip(self._state, kept, strict=True)})

    def _feeds(self, step: Step) -> dict[str, NDArray]:
        tokens = np.array([step.tokens], np.int64)
        feeds = {"input_ids": tokens, "position_ids": step.start + np.arange(tokens.shape[1])[None]}
        others = (name for name in self._inputs if name not in feeds and name not in self._state)
        # All other inputs (batch row, dummies of which only the length matters) are zeros for a single sequence.
        return feeds | {name: self._zeros(name, seq_len=tokens.shape[1]) for name in others}

    def _zeros(self, name: str, seq_len: int) -> NDArray:
        value, sizes = self._inputs[name], {**self._sizes, "seq_len": seq_len}
        shape = [dim if isinstance(dim, int) else sizes.get(str(dim.value)) for dim in value.shape or ()]
        if value.dtype is None or None in shape:
            raise CompileError(
                f"The graph's input '{name}' has the shape {value.shape}, and its axes have no sizes but for "
                f"{', '.join(sizes)}: it cannot be examined on prompts."
            )
        return np.zeros([size for size in shape if size is not None], value.dtype.numpy())


def _layers(model: ir.Model) -> dict[str, int | None]:
    """The layer of each value of the exported graph."""
    noted = ((value.name, node.metadata_props.get(LAYER)) for node in model.graph for value in node.outputs)
    return {str(name): int(layer) if layer is not None else None for name, layer in noted}


def _nodes(model: ir.Model, layers: Mapping[str, int | None]) -> dict[str, GraphNode]:
    """The nodes with rounded float outputs. Inlined nodes belong to the layer of the call."""
    nodes: list[GraphNode] = []
    layer = None
    for node in reversed(model.graph):
        name = str(node.outputs[0].name)
        layer = layers.get(name, layer)
        if node.outputs[0].dtype == ir.DataType.FLOAT and EXACT not in node.meta:
            nodes.append(GraphNode(name, node.op_type, layer, _readers(node.outputs)))
    return {node.name: node for node in reversed(nodes)}


def _readers(values: Sequence[ir.Value]) -> frozenset[str]:
    users = [user for value in values for user in value.consumers() if user.op_type != "Shape"]
    return frozenset(operation(str(user.outputs[0].name)) for user in users)
