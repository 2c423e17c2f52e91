"""The lengths of sequences as an input of a graph, for rotary embeddings that depend on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from QEfficient.contract import ROPE_LENS
from QEfficient.transformers.lowering.rope import running_lens
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph


def with_rope_lens(graph: TaskGraph) -> TaskGraph:
    """``graph`` with the input ``rope_lens``, of the shape of ``input_ids``: tokens of each token's sequence."""
    (tokens,) = (number for number, item in enumerate(graph.inputs) if item.name == "input_ids")
    item = graph.inputs[tokens]
    lens = GraphInput(ROPE_LENS, torch.full_like(item.sample, item.sample.shape[-1]), item.axes)
    return replace(graph, module=_Measuring(graph.module, tokens).eval(), inputs=[*graph.inputs, lens])


class _Measuring(nn.Module):
    """``inner`` with the lengths of the last input."""

    def __init__(self, inner: nn.Module, tokens: int):
        super().__init__()
        self.inner = inner
        self.tokens = tokens

    def forward(self, *inputs: torch.Tensor) -> Any:
        *others, lens = inputs
        for axis, size in enumerate(others[self.tokens].shape):
            torch._check(lens.shape[axis] == size)  # torch.export would only find out where they meet
        with running_lens(lens):
            return self.inner(*others)
