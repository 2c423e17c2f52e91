"""One trace of a graph for all tests that export it: most of the time of a test that compiles a tiny model.

A graph is what :meth:`QEFFBaseModel.export_ingredients` says, without the weights, which come after the trace, and
without the transforms, which rewrite what was traced."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from QEfficient import (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForImageTextToText,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)
from QEfficient.exporter import export
from QEfficient.exporter.layer_kinds import Repeats
from QEfficient.transformers.tasks.graph_spec import TaskGraph

_CLASSES = (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForImageTextToText,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)
_MAX_TRACES = 64

Key = tuple[object, ...]


@dataclass
class Traces:
    """The newest traces, by what decides them."""

    traced: OrderedDict[Key, tuple[TaskGraph, ir.Model]] = field(default_factory=OrderedDict)
    _of_graph: dict[int, tuple[TaskGraph, Key]] = field(default_factory=dict)
    """Keys of graphs that were not traced yet; the graph is kept so that no other gets its id."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Take what was traced before in place of a trace."""
        trace, find_repeats = export.trace, export.find_repeats

        def graphs_noted(make: Any) -> Any:
            def of_plan(model: Any, plan: Any) -> dict[str, TaskGraph]:
                graphs = make(model, plan)
                for name, graph in graphs.items():
                    self._of_graph[id(graph)] = graph, (*_key(model, plan), name, _buffers(graph))
                return graphs

            return of_plan

        def repeats_noted(graph: TaskGraph, source: Any) -> list[Repeats]:
            repeats = find_repeats(graph, source)
            if id(graph) in self._of_graph:
                kinds = tuple((each.list_path, *each.stands_for) for each in repeats)
                self._of_graph[id(graph)] = graph, (*self._of_graph[id(graph)][1], kinds)
            return repeats

        def trace_once(graph: TaskGraph) -> ir.Model:
            if id(graph) not in self._of_graph:
                return trace(graph)
            key = self._of_graph.pop(id(graph))[1]
            if key not in self.traced:
                self.traced[key] = graph, trace(graph)
            self.traced.move_to_end(key)
            traced, model = self.traced[key]
            while len(self.traced) > _MAX_TRACES:
                self.traced.popitem(last=False)
            copied = model.clone()
            _move_weights(copied, traced, graph)
            return copied

        with pytest.MonkeyPatch.context() as patch:
            for auto_class in _CLASSES:
                patch.setattr(auto_class, "_graphs", graphs_noted(auto_class._graphs))
            patch.setattr(export, "find_repeats", repeats_noted)
            patch.setattr(export, "trace", trace_once)
            yield
        self._of_graph.clear()


def _key(model: Any, plan: Any) -> Key:
    hf = model._loaded()
    config = hf.config.to_dict()
    config.pop("_name_or_path", None)
    return type(model), type(hf), json.dumps([config, plan.replaced(transforms=()).key()], default=str)


def _buffers(graph: TaskGraph) -> str:
    """A digest of what is not a weight, and so in the trace itself."""
    digest = hashlib.sha256()
    for name, buffer in graph.module.named_buffers():
        digest.update(f"{name} {buffer.dtype} {tuple(buffer.shape)}".encode())
        if not isinstance(buffer, FakeTensor):
            digest.update(buffer.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _move_weights(model: ir.Model, before: TaskGraph, after: TaskGraph) -> None:
    """Let the weights of a trace be those of another graph that is the same."""
    names = {id(fake): name for name, fake in before.module.named_parameters()}
    fakes = dict(after.module.named_parameters())
    for value in model.graph.initializers.values():
        fake = getattr(value.const_value, "raw", None)
        if isinstance(fake, FakeTensor):
            value.const_value = type(value.const_value)(fakes[names[id(fake)]], name=value.name)
