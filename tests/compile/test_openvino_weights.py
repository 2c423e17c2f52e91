"""Weights that stay in the exported graph's data files: one copy on disk, the same program, nothing read elsewhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import openvino as ov
import openvino.opset13 as ops
import pytest
import tiny_models
import torch
from architectures.tiny import tiny_model
from onnx import TensorProto, helper, numpy_helper

from QEfficient import QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM, from_package
from QEfficient.compile.openvino_weights import attach_weights, detach_weights, external_places
from QEfficient.errors import CompileError, CorruptArtifact, QEffError
from QEfficient.store.digests import hash_file
from QEfficient.store.manifest import MANIFEST_NAME, FileRecord, read_artifact

PROMPT = [[5, 6, 7, 8]]
DATA = "model.onnx.data"
IR = f"{DATA}.xml"


def graph_of(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    """An ONNX graph that returns rows of its weights, which lie in one data file."""
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    nodes = [helper.make_node("Gather", [tensor.name, "rows"], [f"{tensor.name}.out"]) for tensor in tensors]
    outputs = [helper.make_tensor_value_info(f"{t.name}.out", t.data_type, t.dims) for t in tensors]
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["rows"])
    model = helper.make_model(helper.make_graph(nodes, "weights", [rows], outputs, tensors))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location=DATA, size_threshold=0)
    return path


def places_of(path: Path) -> Any:
    return external_places(onnx.load(path, load_external_data=False).graph)


def test_every_type_comes_back_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    types = (np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_)
    weights = {f"layer <{np.dtype(kind).name}> & more": random.integers(0, 2, (3, 1, 5)).astype(kind) for kind in types}
    weights["flat"] = random.normal(size=3).astype(np.float32)
    path, core = graph_of(tmp_path, weights), ov.Core()
    model = core.read_model(path)
    assert detach_weights(model, places_of(path), tmp_path, tmp_path) == (DATA,)
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    again = core.read_model(tmp_path / "model.xml")
    assert len(again.get_parameters()) == len(weights) + 1
    attach_weights(core, again, tmp_path, tmp_path / DATA)
    assert len(again.get_parameters()) == 1
    results = core.compile_model(again, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"rows": np.arange(3)})
    for name, value in weights.items():
        np.testing.assert_array_equal(results[f"{name}.out"], value)


def test_a_constant_that_openvino_changed_is_no_weight_of_the_file(tmp_path: Path) -> None:
    path = graph_of(tmp_path, {"w": np.arange(40, dtype=np.float32)})
    changed = ops.constant(np.ones(40, np.float32))
    changed.set_friendly_name("w")
    with pytest.raises(CompileError, match="changed the weight 'w'"):
        detach_weights(ov.Model([changed], []), places_of(path), tmp_path, tmp_path)


def test_initializers_in_the_graph_have_no_place() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    assert external_places(helper.make_graph([], "inline", [], [], [tensor])) == {}


@pytest.fixture
def package(own_home: Path) -> Path:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama").to(torch.bfloat16))
    return model.compile(ctx_len=32, precision="fp32")


def test_the_store_has_each_weight_once(package: Path, own_home: Path) -> None:
    weights = [path for path in own_home.rglob("*.data") if path.is_file()]
    assert len(weights) == 3, "of the graph, of the program, of the package"
    assert len({path.stat().st_ino for path in weights}) == 1
    assert (package / "model.bin").stat().st_size < 2000


def test_a_copy_runs_without_the_store(package: Path, own_home: Path, tmp_path: Path) -> None:
    with from_package(package) as compiled:
        before = compiled.generate(PROMPT, generation_len=6).generated_ids  # type: ignore[attr-defined]
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    shutil.rmtree(own_home)
    with from_package(copy) as compiled:
        after = compiled.generate(PROMPT, generation_len=6).generated_ids  # type: ignore[attr-defined]
    assert [ids.tolist() for ids in after] == [ids.tolist() for ids in before]


def test_compressed_weights_bring_no_data_file(own_home: Path) -> None:
    package = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama")).compile(ctx_len=32, weight_format="int8")
    assert not (package / DATA).exists()


def test_graphs_of_a_package_share_their_weights(own_home: Path) -> None:
    hf = tiny_model("seq2seq", "t5")
    package = QEFFAutoModelForSeq2SeqLM(hf).compile(ctx_len=16, precision="fp32")
    size = sum(parameter.nbytes for parameter in hf.parameters())
    assert sum(path.stat().st_size for path in package.rglob("*.data")) < 1.1 * size


def sealed(package: Path, folder: Path) -> Path:
    """``folder``, whose files changed, with a manifest that fits them."""
    manifest = read_artifact(folder).manifest
    files = {name: FileRecord((folder / name).stat().st_size, hash_file(folder / name)[0]) for name in manifest.files}
    (folder / MANIFEST_NAME).write_text(replace(manifest, files=files).to_json())
    return folder


def edit(path: Path, tag: str, attribute: str, value: str) -> None:
    """Change an attribute of the first weight."""
    tree = ElementTree.parse(path)
    element = tree.find(f"layers/layer/{tag}" if tag != "layer" else "layers/layer")
    assert element is not None
    element.set(attribute, value)
    tree.write(path)


@pytest.mark.parametrize(
    ("tag", "attribute", "value"),
    [
        ("data", "offset", str(1 << 40)),
        ("data", "offset", str((1 << 64) - 64)),
        ("data", "size", str(1 << 62)),
        ("data", "shape", "1,1"),
        ("data", "element_type", "f64"),
        ("layer", "name", "other"),
    ],
)
def test_a_strangers_constants_stay_inside_the_file(
    package: Path, tmp_path: Path, tag: str, attribute: str, value: str
) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    edit(copy / IR, tag, attribute, value)
    with pytest.raises(QEffError):
        from_package(sealed(package, copy))


@pytest.mark.parametrize("data_files", [[], ["../x"], ["/etc/passwd"], [IR], [DATA, DATA]])
def test_a_strangers_data_files_are_those_of_the_package(package: Path, tmp_path: Path, data_files: list[str]) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    manifest = read_artifact(copy).manifest
    body = json.loads(json.dumps(manifest.body))
    body["graphs"]["model"]["data_files"] = data_files
    (copy / MANIFEST_NAME).write_text(replace(manifest, body=body).to_json())
    with pytest.raises((CorruptArtifact, CompileError)):
        from_package(copy)
