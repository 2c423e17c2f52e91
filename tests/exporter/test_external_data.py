"""Weights are written in pieces, hashed on the way, and once for all graphs of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models
import torch
from torch import nn

from QEfficient.exporter import export
from QEfficient.exporter.export import MODEL_FILE, WEIGHTS_FILE, Export, export_onnx
from QEfficient.exporter.external_data import ExternalData
from QEfficient.exporter.weights import Weight
from QEfficient.transformers.checkpoint import source
from QEfficient.transformers.checkpoint.source import FromModule
from QEfficient.transformers.tasks.causal_lm import retained_graph

SIZES = ((3, 1, 7), (129,), (1000,), (17, 33), (2, 3, 5, 7), (0, 5), ())


def parameters(dtype: torch.dtype) -> nn.ParameterDict:
    torch.manual_seed(0)
    tensors = (torch.randn(size).to(dtype) for size in SIZES)
    return nn.ParameterDict({str(i): nn.Parameter(tensor, requires_grad=False) for i, tensor in enumerate(tensors)})


def model_of(tensors: dict[str, ir.TensorProtocol]) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18})
    for name, tensor in tensors.items():
        graph.initializers[name] = ir.Value(name=name, const_value=tensor)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("piece_bytes", [1, 40, 1 << 20])
def test_file_holds_what_onnx_ir_would_write(
    dtype: torch.dtype, piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PIECE_BYTES", piece_bytes)
    weights = parameters(dtype)
    tensors: dict[str, Any] = {name: Weight(FromModule(weights), name, dtype) for name in weights}
    tensors["constant"] = ir.tensor(np.linspace(0, 1, 99))
    ir.save(model_of(tensors), tmp_path / "theirs.onnx", external_data="theirs.data")
    model = model_of(tensors)
    with ExternalData(tmp_path, "ours.data", 1 << 30) as data:
        data.move_out(model)
    ir.save(model, tmp_path / "ours.onnx")
    ours, theirs = (initializers(tmp_path / f"{name}.onnx") for name in ("ours", "theirs"))
    assert ours == theirs
    check_hashes(tmp_path, data.files.items())


def initializers(path: Path) -> dict[str, tuple[int, list[int], bytes]]:
    return {
        tensor.name: (tensor.data_type, list(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
        for tensor in onnx.load(path).graph.initializer
    }


def check_hashes(folder: Path, files: Iterable[tuple[str, Any]]) -> None:
    for name, record in files:
        content = (folder / name).read_bytes()
        assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_files_are_as_small_as_they_are_asked_to_be(tmp_path: Path) -> None:
    weights = parameters(torch.float32)
    model = model_of({name: Weight(FromModule(weights), name, torch.float32) for name in weights})
    with ExternalData(tmp_path, "data", 3000) as data:
        data.move_out(model)
    sizes = {name: record.size for name, record in data.files.items()}
    assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes.values())[-1] == 4000, "a tensor that is larger has a file of its own"
    assert sum(size <= 3000 for size in sizes.values()) == len(sizes) - 1
    check_hashes(tmp_path, data.files.items())


def graphs_of(hf: Any) -> dict[str, Any]:
    """With and without rows of their own."""
    return {
        "plain": retained_graph(hf, None),
        "batched": retained_graph(hf, None, continuous_batching=True),
    }


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export, Any]:
    folder = tmp_path_factory.mktemp("several")
    hf = tiny_models.causal_lm("qwen3").to(torch.bfloat16)
    return folder, export_onnx(graphs_of(hf), FromModule(hf), folder), hf


def test_several_graphs_share_one_set_of_weights(several: tuple[Path, Export, Any]) -> None:
    folder, exported, hf = several
    assert {path.name for path in folder.iterdir()} == {"plain.onnx", "batched.onnx", WEIGHTS_FILE}
    assert {name: record["file"] for name, record in exported.graphs.items()} == {
        "plain": "plain.onnx",
        "batched": "batched.onnx",
    }
    size = sum(parameter.nbytes for parameter in hf.parameters())
    assert (folder / WEIGHTS_FILE).stat().st_size < size * 1.1
    check_hashes(folder, exported.files.items())


def test_each_of_several_graphs_is_the_one_it_is_alone(several: tuple[Path, Export, Any], tmp_path: Path) -> None:
    folder, exported, hf = several
    for name, graph in graphs_of(hf).items():
        (tmp_path / name).mkdir()
        alone = export_onnx({name: graph}, FromModule(hf), tmp_path / name)
        assert {**exported.graphs[name], "file": MODEL_FILE} == alone.graphs[name]
        assert initializers(folder / f"{name}.onnx") == initializers(tmp_path / name / MODEL_FILE)
        onnxruntime.InferenceSession(folder / f"{name}.onnx")


def test_weights_of_a_graph_are_read_once(tmp_path: Path) -> None:
    hf = tiny_models.causal_lm("llama", tie_word_embeddings=True)
    hf.tie_weights()
    weights = FromModule(hf)
    export.export_onnx({"model": retained_graph(hf, None)}, weights, tmp_path, transforms=["clip_to_fp16"])
    size = sum(parameter.nbytes for parameter in hf.parameters())
    assert size <= weights.bytes_read < size * 1.02, "rewrites may look at what is small, and lies in the graph"
