"""Decomposing only the nodes that need it: the graph computes what PyTorch computes, whatever is written in place."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from QEfficient.exporter.trace import trace
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph

pytestmark = pytest.mark.xdist_group("decompose")

D = 6


def divided_in_place(x: Tensor) -> Tensor:
    scores = x.softmax(-1)
    scores /= scores.sum(-1, keepdim=True) + 1
    return scores * 2


def slices_written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[..., 1:4] = x[..., 2:5]
    y[:, 0] += 1
    return y + x


def rows_written(x: Tensor) -> Tensor:
    y = x * 2
    y[torch.tensor([0, 1])] = x[0]
    return y * 3


def view_read_after_rows_written(x: Tensor) -> Tensor:
    y = x * 2
    view = y.transpose(1, 2)
    y[torch.tensor([0, 1])] = x[0]
    return view * 3


def columns_written(x: Tensor) -> Tensor:
    y = x + 1
    y[..., torch.tensor([0, 3])] = -7.0
    return y * x


def base_read_after_view_written(x: Tensor) -> Tensor:
    y = x + 1
    y.transpose(1, 2)[:, 1].mul_(3)
    return y - x


def view_read_after_base_written(x: Tensor) -> Tensor:
    y = x + 1
    view = y.reshape(y.shape[0], -1)
    y.add_(x)
    return view * 2


def part_written(x: Tensor) -> Tensor:
    y = x.clone()
    first, second = y.chunk(2, dim=-1)
    first.mul_(second)
    return torch.cat([y, second], dim=-1)


def scattered(x: Tensor) -> Tensor:
    index = x.topk(2, dim=-1).indices
    mask = torch.zeros_like(x)
    mask.scatter_(-1, index, 1)
    return x.masked_fill(~mask.bool(), 0.0)


def filled(x: Tensor) -> Tensor:
    y = x.clone()
    y.masked_fill_(x > 0, -1.0)
    y.clamp_(min=-0.5).sigmoid_()
    return y


def triangle_solved(x: Tensor) -> Tensor:
    """As chunked delta rules invert their matrix, row by row."""
    attention = -(x.transpose(1, 2) @ x)[:, :3, :3].tril(-1)
    for i in range(1, 3):
        row, above = attention[..., i, :i].clone(), attention[..., :i, :i].clone()
        attention[..., i, :i] = row + (row.unsqueeze(-1) * above).sum(-2)
    return attention + torch.eye(3)


def recurrence(x: Tensor) -> Tensor:
    """As state space models: padding, a causal convolution, cumulative sums, a loop over chunks."""
    x = functional.pad(x, (0, 0, 0, 3))
    weight = torch.linspace(-1, 1, D * 4).reshape(D, 1, 4)
    y = functional.silu(functional.conv1d(functional.pad(x.transpose(1, 2), (3, 0)), weight, groups=D)).transpose(1, 2)
    decay = torch.exp(y.cumsum(1).clamp(max=0))
    state, output = torch.zeros(x.shape[0], D, D), torch.zeros(x.shape[0], 3, D)
    for i in range(3):
        output[:, i] = torch.einsum("bd,bde->be", y[:, i], state)
        state = state * decay[:, i, :, None] + torch.einsum("bd,be->bde", y[:, i], x[:, i])
    return output


def constant_written(x: Tensor) -> Tensor:
    offsets = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    offsets[2] = 0.0
    return x + offsets


def gradients_switched(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y.add_(1)


def autocast_switched(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = x.float() * 2
        y += 1
    return y - x


def types_mixed(x: Tensor) -> Tensor:
    count = (x > 0).sum(-1, keepdim=True)
    return x / count.clamp(min=1) + count + (x > 0) * 2


def input_written(x: Tensor) -> Tensor:
    x.mul_(2)
    return x + 1


def bags(x: Tensor) -> Tensor:
    """Sums of a token and its neighbour, as images' positions are interpolated."""
    places = torch.arange(x.shape[1])
    pairs = torch.stack([places, (places - 1).clamp(min=0)], dim=1)
    weights = torch.full_like(pairs, 0.5, dtype=torch.float32)
    return nn.functional.embedding_bag(pairs, x[0], per_sample_weights=weights, mode="sum")


FUNCTIONS = [
    bags,
    divided_in_place,
    slices_written,
    rows_written,
    view_read_after_rows_written,
    columns_written,
    base_read_after_view_written,
    view_read_after_base_written,
    part_written,
    scattered,
    filled,
    triangle_solved,
    recurrence,
    constant_written,
    gradients_switched,
    autocast_switched,
    types_mixed,
    input_written,
]


class Function(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function
        self.before = nn.Linear(D, D).requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.function(x if self.function is input_written else self.before(x))


def graph_of(module: nn.Module) -> TaskGraph:
    given = GraphInput("x", torch.randn(3, 7, D), {0: "batch_size", 1: "seq_len"})
    lowered: Any = SimpleNamespace(module=module)
    return TaskGraph(module.eval(), lowered, "test", 1, [given], ["y"], {})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_graph_computes_what_the_function_computes(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    module = Function(function)
    model = trace(graph_of(module))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, length in ((3, 7), (2, 5), (4, 3)):
        x = torch.randn(batch, length, D)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, module(x.clone()).numpy(), rtol=1e-5, atol=1e-6)
