"""Each rewrite changes what it is for, and nothing else: graphs compute the same before and after, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models
import torch
from onnxscript import FLOAT, script
from onnxscript import opset18 as op

from QEfficient.exporter import export
from QEfficient.exporter.transforms import apply_transforms
from QEfficient.exporter.weights import Weight
from QEfficient.transformers.checkpoint.source import FromModule
from QEfficient.transformers.tasks.causal_lm import retained_graph

WEIGHT = np.linspace(0.5, 2.0, 8, dtype=np.float32)
STATES = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
LOWEST = float(np.finfo(np.float32).min)


@script(default_opset=op)
def usual(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Pow(x, op.Constant(value_float=2.0)), op.Constant(value_ints=[-1]), keepdims=1)
    scale = op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=0.5))))
    return op.Mul(w, op.Mul(x, scale))


@script(default_opset=op)
def divided(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[2]), keepdims=1)
    return op.Mul(op.Div(x, op.Sqrt(op.Add(op.Constant(value_float=0.5), mean))), w)


@script(default_opset=op)
def by_power(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]), keepdims=1)
    scale = op.Pow(op.Add(mean, op.Constant(value_float=0.5)), op.Constant(value_float=-0.5))
    return op.Mul(op.Mul(x, scale), op.Add(w, op.Constant(value_float=1.0)))


@script(default_opset=op)
def without_weight(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=0.5)))))


@script(default_opset=op)
def another_axis(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[1]), keepdims=1)
    return op.Mul(w, op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=0.5))))))


@script(default_opset=op)
def of_something_else(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Mul(w, op.Mul(op.Neg(x), op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=0.5))))))


@script(default_opset=op)
def mean_is_used_again(x: FLOAT[2, 3, 8], w: FLOAT[8]) -> FLOAT[2, 3, 8]:
    mean = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]), keepdims=1)
    scale = op.Reciprocal(op.Sqrt(op.Add(mean, op.Constant(value_float=0.5))))
    return op.Add(op.Mul(w, op.Mul(x, scale)), mean)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {"x": STATES, "w": WEIGHT}
    output: np.ndarray = session.run(None, {port.name: inputs[port.name] for port in session.get_inputs()})[0]
    return output


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        (usual, 1),
        (divided, 1),
        (by_power, 1),
        (without_weight, 1),
        (another_axis, 0),
        (of_something_else, 0),
        (mean_is_used_again, 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_norms_are_found_by_what_they_compute(graph: Any, count: int) -> None:
    before = graph.to_model_proto()
    model = ir.from_proto(before)
    onnx.checker.check_model(before)
    assert apply_transforms(model, ["custom_rms_norm"]) == {"custom_rms_norm": count}
    assert [node.op_type for node in model.graph].count("CustomRMSNorm") == count
    assert bool(model.functions) == bool(count)
    np.testing.assert_allclose(run(ir.to_proto(model)), run(before), rtol=1e-6)


def of_model(name: str, transforms: list[str], folder: Path) -> dict[str, Any]:
    hf = tiny_models.causal_lm(name)
    graphs = {"model": retained_graph(hf, None)}
    return export.export_onnx(graphs, FromModule(hf), folder, transforms=transforms).graphs["model"]


@pytest.mark.parametrize(("name", "count"), [("qwen3", 9), ("gemma3_text", 19)])
def test_every_norm_of_an_architecture_is_found(name: str, count: int, tmp_path: Path) -> None:
    """qwen3: 2 layers of input, post-attention, query and key norms, and the last. gemma3: 3 layers of 6."""
    body = of_model(name, ["custom_rms_norm"], tmp_path)
    assert body["transforms"] == {"custom_rms_norm": count}
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node]
    assert kinds.count("CustomRMSNorm") == count
    assert "ReduceMean" not in kinds
    onnxruntime.InferenceSession(tmp_path / "model.onnx")


def initializers(values: dict[str, Any]) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18})
    for name, tensor in values.items():
        graph.initializers[name] = ir.Value(name=name, const_value=tensor)
    return ir.Model(graph, ir_version=10)


def lazily(tensor: torch.Tensor) -> Weight:
    source = FromModule(torch.nn.ParameterDict({"it": torch.nn.Parameter(tensor)}))
    return Weight(source, "it", tensor.dtype)


def test_constants_beyond_fp16_are_clipped_and_minus_infinity_stays() -> None:
    given = np.array([LOWEST, -np.inf, np.inf, 7.0, 65504.0, 1e30], np.float32)
    model = initializers({"mask": ir.tensor(given), "whole": ir.tensor(np.array([1 << 40])), "fine": ir.tensor([1.0])})
    assert apply_transforms(model, ["clip_to_fp16"]) == {"clip_to_fp16": 1}
    clipped = model.graph.initializers["mask"].const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(clipped, np.array([-65504, -np.inf, 65504, 7, 65504, 65504], np.float32))
    assert model.graph.initializers["whole"].const_value.numpy() == 1 << 40  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_clipped_when_they_are_written(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    model = initializers({"beyond": lazily(torch.tensor([1e9, -2.0], dtype=dtype)), "fine": lazily(torch.ones(2))})
    apply_transforms(model, ["clip_to_fp16"])
    held = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    expected = torch.tensor([65504.0, -2.0]).to(dtype).float().numpy()
    np.testing.assert_array_equal(held["beyond"].astype(np.float32), expected)
    np.testing.assert_array_equal(held["fine"], [1, 1])
    assert caplog.text.count("beyond fp16") == 1


def test_weights_are_split_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    of_model("gpt2", [], tmp_path / "whole")
    monkeypatch.setattr(export, "WEIGHTS_FILE_BYTES", 150_000)
    (tmp_path / "split").mkdir()
    of_model("gpt2", [], tmp_path / "split")
    files = [path for path in (tmp_path / "split").iterdir() if path.name != "model.onnx"]
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) <= 150_000
    assert weights(tmp_path / "split") == weights(tmp_path / "whole")


def weights(folder: Path) -> dict[str, bytes]:
    model = onnx.load(folder / "model.onnx")
    read: Callable[[Any], np.ndarray] = onnx.numpy_helper.to_array
    return {value.name: read(value).tobytes() for value in model.graph.initializer}


def test_repeated_layers_become_calls_of_a_function_a_form(tmp_path: Path) -> None:
    """cohere2 has sliding and full layers in turn, and no rotary embedding in the full ones."""
    name, count, forms = "cohere2", 4, 2
    outputs, graphs = [], []
    for transforms in ([], ["layer_functions"]):
        folder = tmp_path / str(len(transforms))
        folder.mkdir()
        body = of_model(name, transforms, folder)
        onnx.checker.check_model(folder / "model.onnx", full_check=True)
        graphs.append(onnx.load(folder / "model.onnx", load_external_data=False))
        outputs.append(run_step(folder / "model.onnx"))
    assert body["transforms"] == {"layer_functions": count}
    layers = [function for function in graphs[1].functions if function.domain == "qeff.layers"]
    assert len(layers) == forms
    assert len(graphs[1].graph.node) < len(graphs[0].graph.node) - count * 40
    assert body["layers"] == [f"layer.{i}" for i in range(count)]
    assert set(body["layers"]) <= {value for node in graphs[1].graph.node for value in node.output}
    for whole, called in zip(*outputs, strict=True):
        np.testing.assert_allclose(called, whole, atol=1e-5)


def run_step(path: Path) -> list[np.ndarray]:
    """The outputs of one step with random state, one row of which ends in padding."""
    session = onnxruntime.InferenceSession(path)
    random = np.random.default_rng(0)
    sizes = {"batch_size": 2, "seq_len": 5, "ctx_len": 16, "sliding_window": 8}
    feeds = {
        "input_ids": random.integers(3, 300, (2, 5)),
        "position_ids": np.array([[0, 1, 2, 3, 4], [0, 1, 2, -1, -1]]),
    }
    for port in session.get_inputs():
        shape = [sizes.get(dim, dim) for dim in port.shape]
        feeds.setdefault(port.name, random.normal(size=shape).astype(np.float32))
    answers: list[np.ndarray] = session.run(None, feeds)
    return answers
