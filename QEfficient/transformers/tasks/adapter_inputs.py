"""Adapters of a graph: an input that selects one for each row, or inputs with the matrices of one for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from QEfficient.contract import LORA_IDS, RETAINED
from QEfficient.transformers.adapters.adapter import PREFIX
from QEfficient.transformers.lowering.adapters import AdapterStep, running_adapters
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph


def with_lora_ids(graph: TaskGraph) -> TaskGraph:
    """``graph`` with the input ``lora_ids``: ``[batch, 1]``, or ``[1, num_tokens]`` of a ragged batch.

    Args:
        graph: of a model with :class:`~QEfficient.transformers.lowering.adapters.SelectedLora`.
    """
    names = [item.name for item in graph.inputs]
    tokens = graph.inputs[names.index("input_ids")]
    is_ragged = graph.lowering == "paged"
    axis = int(is_ragged)
    ids = GraphInput(
        LORA_IDS, torch.zeros_like(tokens.sample if is_ragged else tokens.sample[:, :1]), {axis: tokens.axes[axis]}
    )
    inputs = [*graph.inputs, ids]
    places = [
        (number, at) for number, item in enumerate(inputs) for at, name in item.axes.items() if name == ids.axes[axis]
    ]
    module = _Selecting(graph.module, names.index("input_ids"), names.index("logits_indices") if is_ragged else None)
    module.same_sizes = places
    return replace(graph, module=module.eval(), inputs=inputs)


class _Selecting(nn.Module):
    """``inner`` with the adapters that the last input selects.

    Args:
        inner: the graph's module.
        tokens: which of its inputs has the tokens.
        places: of a ragged batch, which has the places of the tokens that the LM head sees.
    """

    def __init__(self, inner: nn.Module, tokens: int, places: int | None):
        super().__init__()
        self.inner = inner
        self.tokens, self.places = tokens, places
        self.same_sizes: list[tuple[int, int]] = []
        """Inputs, and which of their axes: all have one size, that of the selection."""

    def forward(self, *inputs: torch.Tensor) -> Any:
        *others, ids = inputs
        size, *sizes = (inputs[number].shape[axis] for number, axis in self.same_sizes)
        for other in sizes:
            torch._check(other == size)  # torch.export would only find out where they meet
        head_ids = None if self.places is None else ids.index_select(1, others[self.places])
        step = AdapterStep(ids, others[self.tokens].shape[1], self.places is not None, head_ids)
        with running_adapters(step):
            return self.inner(*others)


def supplied_names(path: str) -> tuple[str, str]:
    """Names of the inputs with a layer's two matrices, as PEFT names them in its files."""
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def supplied_path(name: str) -> str | None:
    """The layer whose first matrix an input is; None for any other input."""
    end = supplied_names("")[0].removeprefix(PREFIX)
    is_first = name.startswith(PREFIX) and name.endswith(end)
    return name[len(PREFIX) : -len(end)] if is_first else None


def with_supplied_inputs(
    graph: TaskGraph, shapes: Mapping[str, tuple[int, int, int]], *, is_retained: bool
) -> TaskGraph:
    """``graph`` with two inputs for each layer that an adapter changes: ``[rank, in]`` and ``[out, rank]``.

    Args:
        graph: of a model with :class:`~QEfficient.transformers.lowering.adapters.SuppliedLora`.
        shapes: input features, rank and output features by the layer's path.
        is_retained: whether a device keeps them between runs, as state: each comes out again as it went in.
    """
    new = []
    for path, (in_features, rank, out_features) in shapes.items():
        for name, size in zip(supplied_names(path), ((rank, in_features), (out_features, rank)), strict=True):
            new.append(GraphInput(name, torch.zeros(size)))
    kept = [f"{item.name}{RETAINED}" for item in new] if is_retained else []
    module = _Supplied(graph.module, list(shapes), is_retained).eval()
    return replace(graph, module=module, inputs=[*graph.inputs, *new], output_names=[*graph.output_names, *kept])


class _Supplied(nn.Module):
    def __init__(self, inner: nn.Module, paths: list[str], is_retained: bool):
        super().__init__()
        self.inner = inner
        self.paths, self.is_retained = paths, is_retained

    def forward(self, *inputs: torch.Tensor) -> Any:
        begin = len(inputs) - 2 * len(self.paths)
        supplied = inputs[begin:]
        matrices = dict(zip(self.paths, zip(supplied[::2], supplied[1::2], strict=True), strict=True))
        with running_adapters(AdapterStep(matrices=matrices)):
            outputs = self.inner(*inputs[:begin])
        return (*outputs, *supplied) if self.is_retained else outputs
