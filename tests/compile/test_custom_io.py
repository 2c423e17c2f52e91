"""What the card keeps in which format, read from graphs whose weights are not there."""

from __future__ import annotations

from pathlib import Path

import fake_sdk
import pytest
from fake_sdk import job
from onnx import TensorProto

from QEfficient.compile.custom_io import (
    GraphIO,
    GraphValue,
    bindings,
    check_formats,
    read_graph_io,
    state_precisions,
    write_custom_io,
)
from QEfficient.compile.node_precision import read_node_precision_info
from QEfficient.contract import Binding
from QEfficient.errors import CompileError, OptionError

TEXT = """ - IOName: past_key.0
   Precision: float16

 - IOName: past_value.0
   Precision: float16

 - IOName: past_key.0_RetainedState
   Precision: float16

 - IOName: past_value.0_RetainedState
   Precision: float16

"""


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return fake_sdk.decoder(tmp_path / "model.onnx", num_layers=1)


def test_text_is_upstreams(onnx_path: Path, tmp_path: Path) -> None:
    path = write_custom_io(tmp_path, read_graph_io(onnx_path), job())
    assert path == tmp_path / "custom_io.yaml"
    assert path.read_text() == TEXT


def test_both_halves_of_every_pair_have_one_format(tmp_path: Path) -> None:
    io = read_graph_io(fake_sdk.decoder(tmp_path / "m.onnx", 2, extra_state=("conv_state.0", TensorProto.FLOAT16)))
    found = state_precisions(io, job(mxint8_kv_cache=True))
    assert {name: kept for name, kept in found.items() if "Retained" not in name} == {
        "past_key.0": "mxint8",
        "past_value.0": "mxint8",
        "past_key.1": "mxint8",
        "past_value.1": "mxint8",
        "conv_state.0": "float16",
    }
    assert all(found[name] == kept for name, kept in ((n.removesuffix("_RetainedState"), k) for n, k in found.items()))
    assert len(found) == 10


def test_fp32_keeps_float_and_other_dtypes_stay(tmp_path: Path) -> None:
    io = read_graph_io(fake_sdk.decoder(tmp_path / "m.onnx", 1, extra_state=("seen_buffer", TensorProto.BOOL)))
    found = state_precisions(io, job(precision="fp32"))
    assert set(found.values()) == {"float"}
    assert "seen_buffer" not in found


def test_a_graph_without_state_needs_no_file(tmp_path: Path) -> None:
    io = GraphIO((GraphValue("input_ids", "int64", (1, 8)),), (GraphValue("output", "float32", (1, 8)),))
    assert write_custom_io(tmp_path, io, job()) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [("float16", (1, 2)), ("float32", (1, 3))])
def test_halves_that_do_not_agree_are_refused(other: tuple[str, tuple[int, ...]]) -> None:
    output = GraphValue("x_RetainedState", *other)
    with pytest.raises(CompileError, match="'x' goes in as float32"):
        _ = GraphIO((GraphValue("x", "float32", (1, 2)),), (output,)).state
    with pytest.raises(CompileError, match="no input 'x'"):
        _ = GraphIO((), (output,)).state


def test_bindings_are_as_compiled(onnx_path: Path) -> None:
    found = bindings(read_graph_io(onnx_path), job(mxint8_kv_cache=True))
    assert list(found.inputs) == ["input_ids", "position_ids", "past_key.0", "past_value.0"]
    assert found.inputs["input_ids"] == Binding(dtype="int64", shape=(1, -1))
    assert found.inputs["past_key.0"] == Binding(dtype="mxint8", shape=(1, 2, 32, 4))
    assert found.outputs["logits"] == Binding(dtype="float32", shape=(1, 1, -1))
    exact = bindings(read_graph_io(onnx_path), job(precision="fp32"))
    assert exact.outputs["past_value.0_RetainedState"] == Binding(dtype="float32", shape=(1, 2, 32, 4))


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"precision": "fp32", "mxfp6_matmul": True},
        {"precision": "fp32", "mxint8_kv_cache": True},
    ],
)
def test_formats_that_contradict_each_other(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="fp32"):
        check_formats(job(**options))
    check_formats(job(precision="fp16", mxfp6_matmul=True, mxint8_kv_cache=True))


def test_node_precision_info(tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text("FP32NodeInstanceNames:\n  - /model/Add_output_0\nFP16NodeInstanceNames: []\n")
    assert read_node_precision_info(path) == {
        "FP32NodeInstanceNames": ["/model/Add_output_0"],
        "FP16NodeInstanceNames": [],
    }
    for text in (
        "",
        "- a",
        "FP64NodeInstanceNames: [a]",
        "FP32NodeInstanceNames: a",
        "FP32NodeInstanceNames: [1]",
        "a: [",
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=r"nodes\.yaml"):
            read_node_precision_info(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_node_precision_info(tmp_path / "gone.yaml")
