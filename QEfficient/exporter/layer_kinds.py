"""Tells which layers of a graph compute the same, so that one of each kind is traced and the others are copied.

Two layers are of a kind if they run the same operators, with the same numbers, over weights and state of the same
shapes. It knows no architecture: it compares what the layers did in one step.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import nn

from QEfficient.exporter.layer_log import Argument, LayerLog, LayerRun, Ref, layer_lists, record
from QEfficient.transformers.checkpoint.source import WeightSource
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.tasks.graph_spec import TaskGraph

logger = logging.getLogger(__name__)

_MIN_LAYERS = 2


@dataclass(frozen=True)
class Repeats:
    """The layers of one list, and which of them are traced."""

    list_path: str
    runs: list[LayerRun]
    stands_for: list[int]
    """For each layer the one that is traced: itself, or an earlier one."""
    chain: dict[int, int]
    """Which leaf of a layer's arguments is which leaf of the result of the layer before."""
    state: list[frozenset[str]]
    """For each layer the inputs and outputs of the graph that are its state."""

    @property
    def leaving(self) -> list[int]:
        """The leaves of a layer's result that the next layer takes."""
        return sorted(set(self.chain.values()))

    def label(self, index: int, side: str, leaf: int) -> str:
        """The mark of a value that enters or leaves a layer."""
        return f"{self.list_path}.{index} {side} {leaf}"


def find_repeats(graph: TaskGraph, source: WeightSource) -> list[Repeats]:
    """The lists of layers in ``graph`` of which some need no tracing."""
    details = {id(fake): _stored_form(source, parameter) for fake, parameter in graph.lowered.parameters}
    details |= {id(buffer): _digest(buffer) for buffer in graph.module.buffers()}
    repeats = []
    for path in layer_lists(graph.module, _MIN_LAYERS):
        try:
            log = record(graph, path, details)
        except FAILURES as error:
            logger.debug("every layer of %s is traced: %s", path, error)
            continue
        if log is not None and (of_list := _Kinds(path, log, graph.output_names).repeats()) is not None:
            repeats.append(of_list)
    return repeats


def _stored_form(source: WeightSource, parameter: nn.Parameter) -> Hashable:
    stored = source.tensors[source.name_of(parameter)]
    return type(stored).__name__, str(stored.dtype)


def _digest(buffer: torch.Tensor) -> Hashable:
    if isinstance(buffer, torch._subclasses.FakeTensor):
        return id(buffer)
    return hashlib.sha256(buffer.detach().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


class _Kinds:
    """Compares the layers of a log."""

    def __init__(self, list_path: str, log: LayerLog, output_names: list[str]):
        self._list_path, self._log, self._output_names = list_path, log, output_names
        self._chain = self._chain_of(1)

    def repeats(self) -> Repeats | None:
        """None if every layer has to be traced."""
        if not self._chain:
            return None
        kinds: dict[Hashable, int] = {}
        stands_for = []
        for index in range(len(self._log.runs)):
            kind = self._kind(index)
            first = kinds.setdefault(kind, index)
            stands_for.append(first if self._can_be_passed_by(index) else index)
        if stands_for == list(range(len(stands_for))):
            return None
        state = [self._state(index) for index in range(len(stands_for))]
        return Repeats(self._list_path, self._log.runs, stands_for, self._chain, state)

    def _state(self, index: int) -> frozenset[str]:
        run = self._log.runs[index]
        parts = (part.ref for operator in run.operators for part in operator if isinstance(part, Argument))
        names = {str(ref.name) for ref in (*run.inputs, *parts) if ref is not None and ref.kind == "input"}
        names |= {name for name, _ in self._graph_outputs(index)}
        return frozenset(name for name in names if without_number(name, index) != name)

    def _graph_outputs(self, index: int) -> list[tuple[str, Ref]]:
        """The outputs of the graph that a layer computed."""
        outputs = zip(self._output_names, self._log.graph_outputs, strict=True)
        return [(name, ref) for name, ref in outputs if ref is not None and ref.layer == index]

    def _chain_of(self, index: int) -> dict[int, int]:
        """Which leaf of a layer's arguments is which result of the layer before."""
        run, before = self._log.runs[index], self._log.runs[index - 1]
        made = {ref: leaf for leaf, ref in enumerate(before.outputs) if ref is not None and ref.layer == index - 1}
        return {leaf: made[ref] for leaf, ref in enumerate(run.inputs) if ref in made}

    def _kind(self, index: int) -> Hashable:
        """Equal for layers that compute the same."""
        run = self._log.runs[index]
        if run.writes_outside or not self._is_chained(index):
            return index
        entering: dict[Ref, Ref] = {}
        for leaf in self._chain:
            if (ref := run.inputs[leaf]) is not None:
                entering.setdefault(ref, Ref("entering", None, leaf))

        def relative(ref: Ref) -> Ref:
            return entering.get(ref) or _relative(ref, index, run.path)

        operators = tuple(
            tuple(replace(part, ref=relative(part.ref)) if isinstance(part, Argument) else part for part in operator)
            for operator in run.operators
        )
        state = tuple(
            (without_number(name, index), relative(ref))
            for name, ref in self._graph_outputs(index)
            if ref not in run.outputs
        )
        return (
            operators,
            tuple(ref and relative(ref) for ref in run.inputs),
            tuple(ref and relative(ref) for ref in run.outputs),
            str(run.output_spec),
            state,
        )

    def _is_chained(self, index: int) -> bool:
        return all(leaf < len(self._log.runs[index].inputs) for leaf in self._chain) and (
            index == 0 or self._chain_of(index) == self._chain
        )

    def _can_be_passed_by(self, index: int) -> bool:
        """Whether nothing but the next layer and the new state uses what the layer computes, and nothing but this layer
        uses what the layer before hands on."""
        if index == 0 or not self._is_chained(index):
            return False
        before = {self._log.runs[index - 1].outputs[leaf] for leaf in self._chain.values()}
        if any(ref in self._log.graph_outputs or self._users(ref) - {index - 1, index} for ref in before):
            return False
        is_last = index == len(self._log.runs) - 1
        leaving = {self._log.runs[index].outputs[leaf] for leaf in self._chain.values()}
        unchained = {*self._log.runs[index].outputs} - leaving - {*self._log.runs[index].inputs}
        if any(ref in unchained for _, ref in self._graph_outputs(index)):
            return False
        for ref in self._log.users:
            if ref.layer == index and not (is_last and ref in leaving):
                allowed = {index, index + 1} if ref in leaving else {index}
                if self._users(ref) - allowed:
                    return False
        return all(
            without_number(name, index) != name
            for name, ref in self._graph_outputs(index)
            if not (is_last and ref in leaving)
        )

    def _users(self, ref: Ref | None) -> set[int | None]:
        return set() if ref is None else self._log.users.get(ref, set())


def _relative(ref: Ref, index: int, path: str) -> Ref:
    """``ref`` as seen from its layer."""
    if ref.kind == "weight" and str(ref.name).startswith(f"{path}."):
        return Ref("weight of layer", None, str(ref.name)[len(path) :], ref.detail)
    if ref.kind == "input":
        return replace(ref, name=without_number(str(ref.name), index))
    return replace(ref, layer=None, kind="result of layer") if ref.layer == index else ref


def without_number(name: str, index: int) -> str:
    """A name of state, or of a matrix that is an input, without the number of its layer."""
    return re.sub(rf"\.{index}(?=$|[._])", ".#", name)
