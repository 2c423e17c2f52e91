"""Flags and configuration files: what the compiler refuses, in its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from simulator import graphs
from simulator.harness import DECODE, DECODER_FLAGS, PREFILL, arguments, compile_graph, state_io

from QEfficient.simulator.compiler import command_line
from QEfficient.simulator.compiler.driver import main
from QEfficient.simulator.rejection import Rejected

BASE = ("-aic-hw", "-m=m.onnx", "-aic-binary-dir=qpc")


UPSTREAM = """-aic-hw -aic-hw-version=ai100 -m=m.onnx -retained-state=true -convert-to-fp16 -mxfp6-matmul
    -aic-num-cores=16 -mos=1,2 -aic-enable-depth-first -allow-mxint8-mdp-io -sub-functions
    -onnx-define-symbol=a,2 -onnx-define-symbol=b,3 -aic-binary-dir=qpc"""


def test_upstreams_command_is_understood() -> None:
    given = command_line.parse(UPSTREAM.split())
    assert given.retained_state
    assert given.fp16
    assert given.mxfp6
    assert given.sub_functions
    assert (given.hardware, given.num_cores, given.symbols) == ("ai100", 16, {"a": 2, "b": 3})


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("-retained-stat", r"Invalid option -retained-stat\. Use -h, -help, or --help for list of options\."),
        ("-aic-batch=1", r"Invalid option -aic-batch\."),
        ("model.onnx", r"Invalid option model\.onnx\."),
        ("-aic-num-cores=17", "from 1 to 16"),
        ("-aic-num-cores=0", "from 1 to 16"),
        ("-mos=17", "from 1 to 16"),
        ("-ols=a", "expected a number"),
        ("-sdp-cluster-sizes=8,4", "a sum of 16"),
        ("-retained-state=maybe", "expected true, false, 1 or 0"),
        ("-aic-hw-version=ai300", "expected one of 2.0, ai100, ai200"),
        ("-mos", "-mos needs a value"),
        ("-model=other.onnx", "-m and -model are mutually exclusive"),
        ("-mxfp6-matmul", "needs -convert-to-fp16"),
        ("-convert-to-quantize", "does not compute"),
        ("-onnx-define-symbol=a", "expected <symbol>,<size>"),
    ],
)
def test_bad_flags(flag: str, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        command_line.parse([*BASE, flag])


@pytest.mark.parametrize("missing", range(3))
def test_required_flags(missing: int) -> None:
    with pytest.raises(Rejected, match="Missing option"):
        command_line.parse([flag for index, flag in enumerate(BASE) if index != missing])


@pytest.mark.parametrize(
    "pair",
    [
        ("-mdp-load-partition-config=a", "-mdp-dump-partition-config=b"),
        ("-network-specialization-config=a", "-aic-preproc"),
    ],
)
def test_exclusive_flags(pair: tuple[str, str]) -> None:
    with pytest.raises(Rejected, match="mutually exclusive"):
        command_line.parse([*BASE, *pair])


def test_cores_limit_what_is_split() -> None:
    with pytest.raises(Rejected, match="-mos=8: expected a number from 1 to 4"):
        command_line.parse([*BASE, "-aic-num-cores=4", "-mos=8"])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-help"]) == 0
    assert "-network-specialization-config=<value>" in capsys.readouterr().out
    assert main(["-version"], "1.21.6.2") == 0
    assert "1.21.6.2" in capsys.readouterr().out


SPECIALIZATIONS: list[tuple[Any, str, int]] = [
    ([{**PREFILL, "seq_len": 4}], r"\[json\.exception\.type_error\.302\] type must be string, but is number", 255),
    ([{"name": "Prefill", "symbols": 3}], "type must be object, but is number", 255),
    ([{"name": 3, "symbols": PREFILL}], "type must be string, but is number", 255),
    ([{"name": "A", "symbols": PREFILL}, {"name": "A", "symbols": DECODE}], "must be unique", 1),
    ([], "at least one entry", 255),
    ([{**PREFILL, "seq_len": "0"}], "a size of at least 1", 1),
    ([{**PREFILL, "seq_len": "-4"}], "a size of at least 1", 1),
    ([{"batch_size": "1", "seq_len": "4"}], r"Symbol ctx_len of past_key\.0 \(axis 2\) has no size", 1),
    ([PREFILL, dict(PREFILL)], "No input that uniquely identifies specialization 1", 1),
    ([PREFILL, {**DECODE, "ctx_len": "16"}], "must have one shape", 1),
]


@pytest.mark.parametrize(("entries", "said", "code"), SPECIALIZATIONS)
def test_bad_specializations(decoder: Path, tmp_path: Path, entries: Any, said: str, code: int) -> None:
    with pytest.raises(Rejected, match=said) as refused:
        compile_graph(decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=entries)
    assert refused.value.exit_code == code
    assert not (tmp_path / "qpc").exists()


def test_named_specializations_need_a_new_sdk(decoder: Path, tmp_path: Path) -> None:
    entries = [{"name": "Prefill", "symbols": PREFILL}, {"name": "Decode", "symbols": DECODE}]
    compile_graph(decoder, tmp_path / "new", *DECODER_FLAGS, specializations=entries, version="1.22.0.0")
    said = r"\[json\.exception\.type_error\.302\] type must be string, but is object"
    with pytest.raises(Rejected, match=said) as refused:
        compile_graph(decoder, tmp_path / "old", *DECODER_FLAGS, specializations=entries, version="1.21.6.0")
    assert refused.value.exit_code == 255


def test_broken_json(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arguments(decoder, tmp_path / "qpc", specializations=[])
    (tmp_path / "qpc.specializations.json").write_text("{")
    assert main(argv) == 255
    assert "json.exception" in capsys.readouterr().err


KEPT = state_io("float16")
CUSTOM_IO: list[tuple[dict[str, str], str]] = [
    ({"past_key.0": "float16"}, r"past_key\.0_RetainedState is missing"),
    ({"past_key.0_RetainedState": "float16"}, r"past_key\.0 is missing"),
    ({**KEPT, "past_key.7": "float16"}, r"names past_key\.7, which the network does not have"),
    ({**KEPT, "past_key.0": "float"}, r"past_key\.0 is float, past_key\.0_RetainedState is float16"),
    ({**KEPT, "logits": "mxint8"}, "not a retained state"),
    ({**KEPT, "input_ids": "float16"}, "which is int64"),
    ({**KEPT, "logits": "float8"}, "expected one of float, float16"),
    ({**KEPT, "logits": "bfloat16"}, "needs -aic-hw-version=ai200"),
]


@pytest.mark.parametrize(("custom_io", "said"), CUSTOM_IO)
def test_bad_custom_io(decoder: Path, tmp_path: Path, custom_io: dict[str, str], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        compile_graph(decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=[PREFILL], custom_io=custom_io)


def test_state_needs_its_input(tmp_path: Path) -> None:
    model = graphs.parse(
        tmp_path / "m.onnx", "g (float[2] x) => (float[2] y_RetainedState) {y_RetainedState = Neg (x)}"
    )
    with pytest.raises(Rejected, match="Retained state output y_RetainedState has no input y"):
        compile_graph(model, tmp_path / "qpc", "-retained-state")
    compile_graph(model, tmp_path / "qpc")  # without the flag it is an output like any other


def device(number: int, cores: int = 16) -> dict[str, int]:
    return {"deviceId": number, "numCores": cores}


PARTITIONS: list[tuple[Any, str]] = [
    ([[device(0), device(0)]], "in two partitions or twice"),
    ([[device(0)], [device(0)]], "in two partitions or twice"),
    ([[device(0), device(1, 8)]], "must be one number"),
    ([[device(0, 8), device(1, 8)]], "must be one number"),  # -aic-num-cores says 16
    ([[{"deviceId": 0}]], "needs deviceId and numCores"),
    ([[]], "needs a name and devices"),
    ([], "at least one entry"),
]


@pytest.mark.parametrize(("partitions", "said"), PARTITIONS)
def test_bad_partitions(decoder: Path, tmp_path: Path, partitions: Any, said: str) -> None:
    path = tmp_path / "mdp.json"
    path.write_text(json.dumps({"partitions": [{"name": f"P{i}", "devices": d} for i, d in enumerate(partitions)]}))
    flags = (f"-mdp-load-partition-config={path}", "-aic-num-cores=16")
    with pytest.raises(Rejected, match=said):
        compile_graph(decoder, tmp_path / "qpc", *flags, specializations=[PREFILL])


def test_connections_are_among_the_devices(decoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mdp.json"
    partitions = [{"name": "P0", "devices": [device(0)], "nodeList": ["unknown names are ignored"]}]
    path.write_text(json.dumps({"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": partitions}))
    with pytest.raises(Rejected, match="a connection is of type p2p"):
        compile_graph(decoder, tmp_path / "qpc", f"-mdp-load-partition-config={path}", specializations=[PREFILL])


def test_dumps(decoder: Path, tmp_path: Path) -> None:
    flags = (f"-mdp-dump-partition-config={tmp_path}/mdp.json", f"-dump-custom-IO-config-template={tmp_path}/io.yaml")
    compile_graph(decoder, tmp_path / "qpc", *DECODER_FLAGS, *flags, specializations=[PREFILL])
    assert json.loads((tmp_path / "mdp.json").read_text())["partitions"][0]["devices"] == [device(0, 4)]
    reused = f"-custom-IO-list-file={tmp_path}/io.yaml"
    compile_graph(decoder, tmp_path / "again", *DECODER_FLAGS, reused, specializations=[PREFILL])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FP32NodeInstanceNames: [q3]\nFP16NodeInstanceNames: [q3]", "cannot be in fp32 and in fp16"),
        ("FP8NodeInstanceNames: [q3]", "expected the keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_node_precision(decoder: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "nodes.yaml").write_text(text)
    flags = (*DECODER_FLAGS, f"-node-precision-info={tmp_path}/nodes.yaml")
    with pytest.raises(Rejected, match=said):
        compile_graph(decoder, tmp_path / "qpc", *flags, specializations=[PREFILL])


def test_existing_folder_and_missing_files(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Rejected, match="exists already"):
        compile_graph(decoder, tmp_path)
    with pytest.raises(Rejected, match="no such file"):
        compile_graph(tmp_path / "none.onnx", tmp_path / "qpc")
    argv = arguments(decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=[PREFILL])
    (tmp_path / "copy.onnx").write_bytes(decoder.read_bytes())
    argv[1] = f"-m={tmp_path}/copy.onnx"
    assert main(argv) == 1
    assert "decoder.onnx.data" in capsys.readouterr().err
    assert not (tmp_path / "qpc").exists()
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(Rejected, match="is not an ONNX model"):
        compile_graph(tmp_path / "text.onnx", tmp_path / "qpc")
