"""Indices out of range: writes are dropped, reads give 0, or poison; ONNX Runtime alone refuses both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from simulator import graphs
from simulator.graphs import INT32_MAX
from simulator.harness import Session, compile_graph, run_once

from QEfficient.simulator.runtime.executor import POISON

DATA = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
SCATTER = "g (float[3, 2, 2] d, int64[2, {k}] i, float[2, {u}] u) => (float[3, 2, 2] y) {{ y = ScatterND (d, i, u) }}"


def scatter(tmp_path: Path, indices: list[list[int]], updates: NDArray) -> NDArray:
    inner = ", ".join(map(str, updates.shape[1:]))
    body = SCATTER.format(k=len(indices[0]), u=inner) if inner else SCATTER.replace(", {u}", "").format(k=3)
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")
    return run_once(folder, d=DATA, i=np.array(indices, np.int64), u=updates.astype(np.float32))["y"]


@pytest.mark.parametrize(
    "indices",
    [
        [[0, 1], [2, 0]],
        [[INT32_MAX, 1], [2, 0]],
        [[2, 0], [0, INT32_MAX]],
        [[INT32_MAX, 0], [3, 0]],
        [[0, 0], [INT32_MAX, 0]],  # place 0 is where a dropped write must not show
        [[-1, 1], [-4, 0]],  # -1 is the last, -4 is out of range
    ],
)
def test_writes_out_of_range_are_dropped(tmp_path: Path, indices: list[list[int]]) -> None:
    updates = np.array([[100, 101], [200, 201]])
    expected = DATA.copy()
    for (row, column), update in zip(indices, updates, strict=True):
        if -3 <= row < 3 and -2 <= column < 2:
            expected[row, column] = update
    np.testing.assert_array_equal(scatter(tmp_path, indices, updates), expected)


def test_writes_of_rows_and_of_single_values(tmp_path: Path) -> None:
    rows = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    expected = DATA.copy()
    expected[1] = rows[1]
    np.testing.assert_array_equal(scatter(tmp_path / "rows", [[INT32_MAX], [1]], rows), expected)
    expected = DATA.copy()
    expected[2, 1, 0] = 9
    values = scatter(tmp_path / "values", [[2, 1, 0], [2, 1, INT32_MAX]], np.array([9, 8]))
    np.testing.assert_array_equal(values, expected)


def test_no_write_at_all_leaves_what_is_there(tmp_path: Path) -> None:
    none = "o = Constant <value_ints = [0]> () j = Slice (i, o, o) v = Slice (u, o, o)"
    body = SCATTER.format(k=2, u=2).replace("{ y", f"{{ {none} y").replace("(d, i, u)", "(d, j, v)")
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")
    written = run_once(folder, d=DATA, i=np.zeros((2, 2), np.int64), u=np.zeros((2, 2), np.float32))["y"]
    np.testing.assert_array_equal(written, DATA)


@pytest.mark.parametrize("poison", [False, True])
def test_reads_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: bool) -> None:
    body = "g (float[3, 2, 2] d, int64[3, 2] i) => (float[3, 2] y) { y = GatherND (d, i) }"
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc", "-convert-to-fp16")
    if poison:
        monkeypatch.setenv("QEFF_SIM_POISON", "1")
    result = run_once(folder, d=DATA, i=np.array([[2, 1], [0, INT32_MAX], [-1, 0]], np.int64))["y"]
    undefined = POISON if poison else 0.0
    np.testing.assert_array_equal(result, [[10, 11], [undefined, undefined], [8, 9]])


def test_reads_with_batch_dims(tmp_path: Path) -> None:
    body = "g (float[3, 2, 2] d, int64[3, 1, 1] i) => (float[3, 1, 2] y) { y = GatherND <batch_dims = 1> (d, i) }"
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")
    indices = np.array([1, INT32_MAX, 0], np.int64).reshape(3, 1, 1)
    result = run_once(folder, d=DATA, i=indices)["y"]
    np.testing.assert_array_equal(result, np.array([[[2, 3]], [[0, 0]], [[8, 9]]]))


def test_integers_are_read_as_zero(tmp_path: Path) -> None:
    body = "g (int64[3] d, int64[2, 1] i) => (int64[2] y) { y = GatherND (d, i) }"
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")
    result = run_once(folder, d=np.array([5, 6, 7]), i=np.array([[2], [3]], np.int64))["y"]
    assert result.tolist() == [7, 0]


def test_a_plain_gather_out_of_range_fails_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = "g (float[3] d, int64[1] i) => (float[1] y) { y = Gather (d, i) }"
    session = Session(compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")).activate()
    given = {"d": np.zeros(3, np.float32), "i": np.array([3], np.int64)}
    assert session.submit(given) == (0, 0, 300)
    assert "The device failed" in caplog.text
    session.close()
