"""The comparison that the numeric doctor is built on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulator import graphs

from QEfficient.simulator.configuration import NodePrecision
from QEfficient.simulator.node_report import compare_precisions

BODY = """g (float[3] x) => (float[3] y) {
    square = Mul (x, x)
    shifted = Add (square, one)
    inverse = Reciprocal (shifted)
    tiny = Mul (inverse, small)
    y = Transpose (tiny)
}"""
X = {"x": np.array([1.0, 2.0, 1000.0], np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    constants = {"one": np.array([1], np.float32), "small": np.array([1e-5], np.float32)}
    return graphs.parse(tmp_path / "m.onnx", BODY, constants)


def test_each_node_in_order(model: Path) -> None:
    report = compare_precisions(model, X)
    assert [(node.name, node.op_type) for node in report] == [
        ("square", "Mul"),
        ("shifted", "Add"),
        ("inverse", "Reciprocal"),
        ("tiny", "Mul"),
        ("y", "Transpose"),
    ]
    square, _, inverse, tiny, _ = report
    assert (square.largest, square.num_overflowed, square.overflows) == (1e6, 1, True)
    assert (inverse.num_overflowed, inverse.num_underflowed) == (0, 1)  # 1/inf
    assert tiny.num_underflowed == 1
    assert inverse.relative_error == pytest.approx(0.0, abs=1e-3)
    assert tiny.relative_error > 1e-3  # 1e-5 is subnormal in fp16


def test_nodes_in_fp32_do_not_overflow(model: Path) -> None:
    nodes = NodePrecision(fp32=frozenset({"square", "shifted", "inverse", "tiny"}))
    report = {node.name: node for node in compare_precisions(model, X, nodes)}
    assert not report["square"].overflows
    assert report["tiny"].num_underflowed == 0


def test_a_decoder_with_functions(decoder: Path) -> None:
    state = np.zeros((1, 1, 8, 32), np.float32)
    tokens = {"input_ids": np.array([[3, 5]]), "position_ids": np.array([[0, 1]])}
    report = compare_precisions(decoder, {**tokens, "past_key.0": state, "past_value.0": state})
    names = [node.name for node in report]
    assert {"hidden", "scores", "past_key.0_RetainedState", "logits"} <= set(names)
    assert not any(node.overflows for node in report)
    assert 1e-5 < report[names.index("logits")].relative_error < 1e-2
