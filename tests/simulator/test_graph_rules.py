"""Constructs that the card's compiler refuses, and their neighbours that it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulator import graphs
from simulator.graphs import INT32, UINT8
from simulator.harness import compile_graph, run_once

from QEfficient.simulator.rejection import Rejected

BRANCHES = """
    then_branch = then () => (float[{N}] t) { t = Neg (x) },
    else_branch = otherwise () => (float[{N}] e) { e = Identity (x) }
""".replace("{N}", "2")


def refused(tmp_path: Path, body: str, said: str, *flags: str, functions: str = "") -> None:
    model = graphs.parse(tmp_path / "m.onnx", body, functions=functions)
    with pytest.raises(Rejected, match=said):
        compile_graph(model, tmp_path / "qpc", *flags)
    assert not (tmp_path / "qpc").exists()


def test_if_on_data(tmp_path: Path) -> None:
    body = f"g (float[2] x, bool c) => (float[2] y) {{ y = If (c) <{BRANCHES}> }}"
    refused(tmp_path, body, "If: Non-constant condition tensor not supported.")


IF_ON_SHAPE = """g (float[2] x) => (float[2] y) {{
    n = Size (x)
    two = Constant <value = int64 {{2}}> ()
    is_two = Equal (n, two)
    {extra}
    y = If ({condition}) <{branches}>
}}"""


def test_if_on_a_shape_is_resolved(tmp_path: Path) -> None:
    body = IF_ON_SHAPE.format(extra="", condition="is_two", branches=BRANCHES)
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc")
    assert run_once(folder, x=np.array([1, -2], np.float32))["y"].tolist() == [-1, 2]


def test_if_on_an_or_of_shapes(tmp_path: Path) -> None:
    body = IF_ON_SHAPE.format(extra="either = Or (is_two, is_two)", condition="either", branches=BRANCHES)
    refused(tmp_path, body, "Or of shape comparisons")


def test_if_with_two_outputs(tmp_path: Path) -> None:
    branches = BRANCHES.replace("t)", "t, float[2] t2)").replace("e)", "e, float[2] e2)")
    branches = branches.replace("Neg (x)", "Neg (x)\n t2 = Abs (x)").replace(
        "Identity (x)", "Identity (x)\n e2 = Abs (x)"
    )
    body = IF_ON_SHAPE.format(extra="", condition="is_two", branches=branches).replace("y = If", "y, z = If")
    refused(tmp_path, body, "Only single output 'then' subgraph is supported.")


def test_cast_of_uint8(tmp_path: Path) -> None:
    model = graphs.one_node(tmp_path / "m.onnx", "Cast", [UINT8], INT32, to=INT32)
    with pytest.raises(Rejected, match="Unsupported cast from quantized type"):
        compile_graph(model, tmp_path / "qpc")


def test_concat_of_mixed_integers(tmp_path: Path) -> None:
    body = """g (float[2] x, int32[2] a, int64[2] b) => (float[4] y) {
        zero = Constant <value = int64[1] {0}> ()
        both = Concat <axis = 0> (a, b)
        y = Gather (x, both)
    }"""
    refused(tmp_path, body, "index tensors must be of one type, got INT32, INT64")


@pytest.mark.parametrize(
    "line",
    [
        "y = NonZero (x)",
        "y = Unique (x)",
        "y = Expand (x, n)",
        "y = Tile (x, n)",
        "y = Reshape (x, n)",
        "y = ConstantOfShape (n)",
    ],
)
def test_shapes_that_depend_on_data(tmp_path: Path, line: str) -> None:
    dtype = "int64" if "NonZero" in line else "float"
    body = f"g (float[2] x, int64[1] n) => ({dtype}[2] y) {{ {line} }}"
    refused(tmp_path, body, "the shape of y depends on data")


def test_loop_with_a_dynamic_trip_count(tmp_path: Path) -> None:
    body = """g (float[2] x, int64 n) => (float[2] y) {
        go = Constant <value = bool {1}> ()
        y = Loop (n, go, x) <body = turn (int64 i, bool c, float[2] a) => (bool c2, float[2] b)
            { c2 = Identity (c)
              b = Neg (a) }>
    }"""
    refused(tmp_path, body, "the number of its turns depends on data")


def test_unknown_operators(tmp_path: Path) -> None:
    body = "g (float[2] x) => (float[2] y) { y = local.Mystery (x) }"
    refused(tmp_path, body, "Unable to AddNodesToGraphFromModel: .*local::Mystery")


REPEATS = """<domain: "{domain}", opset_import: ["" : 18]>
Grow (x, n) => (y) {{ y = Expand (x, n) }}"""
CALL = """g (float[1] x) => (float[1] y) {{
    n = Shape (x)
    y = {domain}.Grow (x, n)
}}"""


def test_repeats_in_a_sub_function(tmp_path: Path) -> None:
    """They are constant in the caller, which a function that is kept does not see."""
    body, function = CALL.format(domain="local"), REPEATS.format(domain="local")
    refused(tmp_path, body, "non-constant repeats", "-sub-functions", functions=function)
    compile_graph(graphs.parse(tmp_path / "m.onnx", body, functions=function), tmp_path / "inlined")


def test_functions_for_other_opsets(tmp_path: Path) -> None:
    """Taken if their operators mean the same in both: ReduceMean's axes moved in opset 18."""
    text = """<domain: "local", opset_import: ["" : 17]> F (x) => (y) {{ y = {line} }}"""
    body = "g (float[2] x) => (float[{n}] y) {{ y = local.F (x) }}"
    same = graphs.parse(tmp_path / "same.onnx", body.format(n=2), functions=text.format(line="Neg (x)"))
    compile_graph(same, tmp_path / "same")
    line = "ReduceMean <axes = [0]> (x)"
    refused(tmp_path, body.format(n=1), "ReduceMean differ between them", functions=text.format(line=line))
