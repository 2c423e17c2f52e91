"""What makes an export fast, and whether it is still needed: where the first assertion fails, a patch can go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import pytest
import torch
from onnxscript.rewriter._matcher import SimplePatternMatcher
from torch import Tensor, fx, nn
from torch._export.passes import replace_set_grad_with_hop_pass
from torch.export import ExportedProgram, exported_program
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry

from QEfficient.exporter.decompose import decompose
from QEfficient.transformers.patches import (
    lean_tracing,
    own_decomposition,
    promotion_without_running,
    reused_onnx_registry,
    rules_by_operator,
)

pytestmark = pytest.mark.xdist_group("patches")


class Model(nn.Module):
    """Has nothing to decompose but one no-op, one mixed type, and a switch of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.sin()
        return self.inner(y).to(torch.float32) + (x > 0)


def export(model: nn.Module | None = None) -> ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        return torch.export.export((model or Model()).eval(), (torch.randn(3, 4),), dynamic_shapes=({0: batch},))


@pytest.fixture
def registry() -> ONNXRegistry:
    with reused_onnx_registry():
        return ONNXRegistry.from_torchlib()


class Calls:
    """Counts calls of ``owner.name``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str):
        self.count = 0
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def during(self, act: Callable[[], Any]) -> int:
        before = self.count
        act()
        return self.count - before


def targets(program: ExportedProgram) -> list[str]:
    found = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [target for target in found if "_assert" not in target]  # torch.onnx drops these


def test_decomposition_leaves_alone_what_does_not_decompose(
    monkeypatch: pytest.MonkeyPatch, registry: ONNXRegistry
) -> None:
    retraces = Calls(monkeypatch, exported_program, "_decompose_and_get_gm_with_new_signature_constants")
    assert retraces.during(lambda: _fx_passes.decompose_with_registry(export(), registry)) == 1
    program = export()
    with own_decomposition(decompose):
        assert retraces.during(lambda: _fx_passes.decompose_with_registry(program, registry)) == 0
    assert targets(program) == ["aten.sin.default", "aten.linear.default", "aten.gt.Scalar", "aten.add.Tensor"]
    (linear,) = (node for node in program.graph.nodes if "linear" in str(node.target))
    assert [path for path, _ in linear.meta["nn_module_stack"].values()] == ["", "inner"]


class Switch(nn.Module):
    """A graph inside the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


class Counter(nn.Module):
    """Writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x.sum(0))
        return x + self.total


@pytest.mark.parametrize("model", [Switch(), Counter()])
def test_decomposition_leaves_to_torch_what_is_beyond_it(model: nn.Module, registry: ONNXRegistry) -> None:
    program = export(model)
    before = program.graph
    assert not decompose(program, registry)
    assert program.graph is before


def test_promotion_runs_only_what_it_changes(monkeypatch: pytest.MonkeyPatch, registry: ONNXRegistry) -> None:
    runs = Calls(monkeypatch, fx.Interpreter, "call_function")
    program, patched = export(), export()
    assert decompose(program, registry)
    assert decompose(patched, registry)
    num_nodes = len(targets(program))
    in_all = runs.during(lambda: _fx_passes.insert_type_promotion_nodes(program.graph_module))
    with promotion_without_running():
        changed = runs.during(lambda: _fx_passes.insert_type_promotion_nodes(patched.graph_module))
    assert in_all >= changed + num_nodes
    assert changed == 4, "two casts, and the two operators that get them"
    assert targets(patched) == targets(program)
    assert "prims.convert_element_type.default" in targets(patched)


def test_rules_are_tried_where_their_operator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> ir.Model:
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
        relu = ir.node("Relu", [x])
        relu = ir.node("Relu", [relu.outputs[0]])
        return ir.Model(
            ir.Graph([x], relu.outputs, nodes=[relu.inputs[0].producer(), relu], opset_imports={"": 18}), ir_version=10
        )

    tried = Calls(monkeypatch, SimplePatternMatcher, "match")
    plain, patched = model(), model()
    assert tried.during(lambda: onnxscript.optimizer.optimize_ir(plain)) > 60
    with rules_by_operator():
        assert tried.during(lambda: onnxscript.optimizer.optimize_ir(patched)) < 20
    assert [node.op_type for node in patched.graph] == [node.op_type for node in plain.graph] == ["Relu"]


def test_tracing_notes_no_lines_and_splits_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Calls(monkeypatch, replace_set_grad_with_hop_pass, "sequential_split")
    programs = []
    assert splits.during(lambda: programs.append(export())) == 1
    with lean_tracing():
        assert splits.during(lambda: programs.append(export())) == 0
    plain, lean = programs
    assert targets(plain) == targets(lean)
    assert any(node.meta.get("stack_trace") for node in plain.graph.nodes)
    assert not any(node.meta.get("stack_trace") for node in lean.graph.nodes)
