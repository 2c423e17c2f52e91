"""Layers that compute the same are traced once: the graph is the one that a trace of every layer gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import tiny_models
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from QEfficient.exporter import export
from QEfficient.exporter.layer_kinds import find_repeats
from QEfficient.exporter.weights import Weight
from QEfficient.transformers.checkpoint.source import FromModule
from QEfficient.transformers.lowering.apply import LoweredModel
from QEfficient.transformers.tasks.causal_lm import paged_graph, retained_graph
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph

GRAPHS: dict[str, Callable[[Any], TaskGraph]] = {
    "paged": lambda model: paged_graph(model, None),
    "retained": lambda model: retained_graph(model, 64, continuous_batching=True),
}


def formulas(model: ir.Model) -> dict[str, str]:
    """For each output a digest of how it is computed, which names of values do not change."""
    known: dict[ir.Value, str] = {value: f"input {value.name}" for value in model.graph.inputs}

    def constant(value: ir.Value) -> str:
        if isinstance(value.const_value, Weight):
            return f"weight {value.const_value.source_name} {value.const_value.dtype}"
        return content(value.const_value)

    def content(value: Any) -> str:
        if not isinstance(value, ir.TensorProtocol):
            return str(value)
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"

    for value in model.graph.initializers.values():
        known[value] = constant(value)
    for node in model.graph:
        inputs = [None if value is None else known[value] for value in node.inputs]
        attributes = sorted((name, content(attribute.value)) for name, attribute in node.attributes.items())
        if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            numbers = {name: attribute.as_int() for name, attribute in node.attributes.items()}
            sizes = list(node.inputs[0].shape or [])[numbers.get("start", 0) : numbers.get("end")]
            inputs, attributes = [str(list(map(str, sizes)))], []  # inputs share their named axes
        digest = hashlib.sha256(repr((node.domain, node.op_type, inputs, attributes)).encode()).hexdigest()
        known |= {value: f"{digest} {number}" for number, value in enumerate(node.outputs)}
    return {str(value.name): known[value] for value in model.graph.outputs}


def built(graph: TaskGraph, source: Any) -> tuple[dict[str, str], list[Any]]:
    model, record = export._build(graph, source, True, ("custom_rms_norm",))
    weights = [name for name, value in model.graph.initializers.items() if isinstance(value.const_value, Weight)]
    return formulas(model), [record["layers"], record["num_nodes"], sorted(weights)]


@pytest.mark.parametrize(
    ("architecture", "lowering", "changes", "num_traced"),
    [
        ("llama", "paged", {}, 1),
        pytest.param("gemma2", "retained", {"num_hidden_layers": 6}, 4, marks=pytest.mark.sweep),
        ("gpt2", "retained", {"n_layer": 4}, 2),
        pytest.param("qwen3_moe", "paged", {}, 1, marks=pytest.mark.sweep),
    ],
)
def test_the_graph_is_that_of_a_whole_trace(
    architecture: str, lowering: str, changes: dict[str, Any], num_traced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models.causal_lm(architecture, **({"num_hidden_layers": 4} | changes))
    for number, parameter in enumerate(model.parameters()):
        parameter.data += number / 1000  # else the optimizer stores equal norms once
    graph, source = GRAPHS[lowering](model), FromModule(model)
    (repeats,) = find_repeats(graph, source)
    assert len(set(repeats.stands_for)) == num_traced
    copied = built(graph, source)
    monkeypatch.setattr(export, "find_repeats", lambda graph, source: [])
    assert copied == built(graph, source)


class Layer(nn.Module):
    def __init__(self, scale: float = 1.0, table: float = 1.0, width: int = 6):
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 4)
        self.scale = scale
        self.register_buffer("table", torch.full((4,), table))

    def forward(self, hidden: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        return hidden + self.second(self.first(hidden * self.table).relu()) * self.scale + shared


class Writing(Layer):
    def forward(self, hidden: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        shared.add_(1)
        return super().forward(hidden, shared)


class Choosing(Layer):
    """Computes with as many rows as there are of a kind, as the adapters of XMOD do."""

    def forward(self, hidden: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        rows = (hidden.sum(1) > 0).nonzero()[:, 0]
        return hidden.index_add(0, rows, self.second(self.first(hidden[rows])))


class Returning(Layer):
    """Returns what nothing uses too, as encoders return their attention's weights."""

    def forward(self, hidden: torch.Tensor, shared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return super().forward(hidden, shared), hidden.softmax(-1)


class Stack(nn.Module):
    def __init__(self, layers: list[nn.Module], collects: bool = False, between: bool = False):
        super().__init__()
        self.layers, self.collects, self.between = nn.ModuleList(layers), collects, between

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        (hidden,) = inputs
        shared, collected = hidden.mean() * torch.ones(4), []
        for layer in self.layers:
            result = layer(hidden, shared)
            hidden = result[0] if isinstance(result, tuple) else result
            collected.append(hidden)
            if self.between:
                hidden = hidden * 2
        return torch.stack(collected).sum(0) if self.collects else hidden


def toy(stack: nn.Module) -> tuple[TaskGraph, FromModule]:
    source, mode = FromModule(stack), FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    pairs = []
    for module in stack.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            with mode:
                fake = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
            setattr(module, name, fake)
            pairs.append((fake, parameter))
    lowered = LoweredModel(stack, mode, tuple(pairs))
    inputs = [GraphInput("hidden", torch.zeros(3, 4), {0: "batch_size"})]
    return TaskGraph(stack.eval(), lowered, "encoder", len(pairs), inputs, ["output"], {"output": {}}), source


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        (Stack([Layer(), Layer(), Layer()]), [0, 0, 0]),
        (Stack([Layer(), Layer(scale=2.0), Layer(), Layer(scale=2.0)]), [0, 1, 0, 1]),
        (Stack([Layer(), Layer(), Layer(table=2.0)]), [0, 0, 2]),
        (Stack([Layer(), Layer(), Layer(width=7), Layer()]), [0, 0, 2, 0]),
    ],
)
def test_kinds_of_layers(stack: nn.Module, expected: list[int]) -> None:
    graph, source = toy(stack)
    (repeats,) = find_repeats(graph, source)
    assert repeats.stands_for == expected


@pytest.mark.parametrize(
    "stack",
    [
        Stack([Layer(scale=float(i)) for i in range(3)]),
        Stack([Layer(), Layer(), Layer()], collects=True),
        Stack([Layer(), Layer(), Layer()], between=True),
        Stack([Writing(), Writing(), Writing()]),
    ],
    ids=["numbers differ", "results are collected", "code between", "writes outside"],
)
def test_layers_that_must_be_traced(stack: nn.Module) -> None:
    graph, source = toy(stack)
    assert find_repeats(graph, source) == []


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_last_layer_whose_result_is_the_graphs(scales: tuple[float, ...]) -> None:
    graph, source = toy(Stack([Layer(scale=scale) for scale in scales]))
    assert find_repeats(graph, source)
    model, _ = export._build(graph, source, True, ())
    assert [value.name for value in model.graph.outputs] == ["output"]
    assert len([node for node in model.graph if node.op_type in ("Gemm", "MatMul")]) == 6


def test_layers_that_return_what_nothing_uses() -> None:
    graph, source = toy(Stack([Returning(), Returning(), Returning()]))
    (repeats,) = find_repeats(graph, source)
    assert repeats.stands_for == [0, 0, 0]
    model, _ = export._build(graph, source, True, ())
    assert len([node for node in model.graph if node.op_type in ("Gemm", "MatMul")]) == 6


def test_layers_with_sizes_that_depend_on_data() -> None:
    graph, source = toy(Stack([Choosing(), Choosing(), Choosing()]))
    assert find_repeats(graph, source) == []


def test_a_layer_that_is_called_twice_is_traced() -> None:
    layer = Layer()
    graph, source = toy(Stack([layer, layer, layer]))
    assert find_repeats(graph, source) == []
