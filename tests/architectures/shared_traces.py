"""One trace of a graph for all targets: most of the time of a test that compares a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import pytest

from QEfficient import (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)
from QEfficient.exporter import export
from QEfficient.transformers.tasks.graph_spec import TaskGraph

_CLASSES = (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)


@contextmanager
def shared_traces() -> Iterator[None]:
    """Plans of one model that differ in nothing but their transforms, which rewrite what was traced, share a trace."""
    # With what a key is the identity of, so that nothing else gets it.
    graphs: dict[tuple[int, str], tuple[Any, dict[str, TaskGraph]]] = {}
    traced: dict[int, tuple[TaskGraph, ir.Model]] = {}
    trace = export.trace

    def graphs_once(make: Any) -> Any:
        def of_plan(self: Any, plan: Any) -> dict[str, TaskGraph]:
            key = id(self._model), json.dumps(plan.replaced(transforms=()).key())
            if key not in graphs:
                graphs[key] = self._model, make(self, plan)
            return graphs[key][1]

        return of_plan

    def trace_once(graph: TaskGraph) -> ir.Model:
        if id(graph) not in traced:
            traced[id(graph)] = graph, trace(graph)
        return traced[id(graph)][1].clone()

    with pytest.MonkeyPatch.context() as patch:
        for auto_class in _CLASSES:
            patch.setattr(auto_class, "_graphs", graphs_once(auto_class._graphs))
        patch.setattr(export, "trace", trace_once)
        yield
