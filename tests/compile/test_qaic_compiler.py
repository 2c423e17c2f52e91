"""The card's compiler: its command is upstream's, what it reads is whole before it runs, what it wrote is looked at."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import fake_sdk
import pytest
from fake_sdk import job

from QEfficient.compile import qaic_sdk
from QEfficient.compile.qaic_compiler import (
    check,
    command,
    compile_onnx,
    compiler_flags,
    key_ingredients,
    prepare,
    toolchain,
)
from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.contract import Binding
from QEfficient.errors import CompileError, OptionError, TargetUnavailable
from QEfficient.store.digests import digest

MODEL, FOLDER, ROOT = Path("/models/model.onnx"), Path("/out"), Path("/opt/qti-aic")
NEW = QaicSDK(root=ROOT, compiler=ROOT / "exec" / "qaic-compile", version="1.22.0.41")
OLD = QaicSDK(root=ROOT, compiler=ROOT / "exec" / "qaic-exec", version="1.17.0")
FILES = [
    "-network-specialization-config=/out/specializations.json",
    "-custom-IO-list-file=/out/custom_io.yaml",
    "-aic-binary-dir=/out/qpc",
]


@pytest.fixture(autouse=True)
def no_sdk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEFF_QAIC_SDK", raising=False)
    monkeypatch.setattr(qaic_sdk, "DEFAULT_ROOT", tmp_path / "default")
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return fake_sdk.decoder(tmp_path / "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def test_command_is_upstreams() -> None:
    assert command(MODEL, FOLDER, job(), NEW) == [
        "/opt/qti-aic/exec/qaic-compile",
        "-aic-hw",
        "-aic-hw-version=ai100",
        "-m=/models/model.onnx",
        "-retained-state",
        "-convert-to-fp16",
        "-aic-num-cores=16",
        *FILES,
    ]


def test_command_with_everything_is_in_upstreams_order() -> None:
    options: dict[str, Any] = {
        "mxfp6_matmul": True,
        "mxint8_kv_cache": True,
        "num_cores": 14,
        "num_devices": 2,
        "aic_enable_depth_first": True,
        "mos": 1,
        "allow_mxint8_mdp_io": True,
        "node_precision_info": "nodes.yaml",
        "use_onnx_subfunctions": True,
        "aic_hw_version": "ai200",
        "compiler_options": {
            "stats_level": 70,
            "user_tiled": True,
            "time-passes": False,
            "ddr_stats": None,
            "ols": [1, 2],
            "specialization_format": "flat",
            "verify_qpc": False,
        },
    }
    assert command(MODEL, FOLDER, job(**options), NEW) == [
        "/opt/qti-aic/exec/qaic-compile",
        "-aic-hw",
        "-aic-hw-version=ai200",
        "-m=/models/model.onnx",
        "-retained-state",
        "-convert-to-fp16",
        "-mxfp6-matmul",
        "-aic-num-cores=14",
        "-aic-enable-depth-first",
        "-mos=1",
        "-allow-mxint8-mdp-io",
        "-node-precision-info=nodes.yaml",
        "-stats-level=70",
        "-user-tiled",
        "-ols=1,2",
        "-sub-functions",
        "-mdp-load-partition-config=/out/mdp_ts_2.json",
        *FILES,
    ]


def test_partitions_other_than_slices_come_after_the_model() -> None:
    pipeline = command(MODEL, FOLDER, job(num_devices=4, mdp_num_partitions=2), NEW)
    assert pipeline[3:5] == ["-m=/models/model.onnx", "-mdp-load-partition-config=/out/mdp_disagg_4d_2p.json"]
    own = command(MODEL, FOLDER, job(num_devices=4, mdp_load_partition_config="own.json"), NEW)
    assert own[3:5] == ["-m=/models/model.onnx", "-mdp-load-partition-config=own.json"]
    assert len([argument for argument in own if "mdp" in argument]) == 1


def test_older_sdks_get_their_spellings() -> None:
    arguments = command(MODEL, FOLDER, job(), OLD)
    assert arguments[0] == "/opt/qti-aic/exec/qaic-exec"
    assert "-aic-hw-version=2.0" in arguments
    assert arguments[-2:] == ["-compile-only", "-aic-binary-dir=/out/qpc"]
    assert "-compile-only" not in command(MODEL, FOLDER, job(), NEW)
    assert "-aic-hw-version=ai100" in command(MODEL, FOLDER, job(aic_hw_version="ai100"), OLD)


def test_fp32_is_not_converted_and_no_state_is_not_retained() -> None:
    assert "-convert-to-fp16" not in command(MODEL, FOLDER, job(precision="fp32"), NEW)
    arguments = command(MODEL, FOLDER, job(), NEW, has_state=False, has_formats=False)
    assert not [argument for argument in arguments if "retained" in argument or "custom-IO" in argument]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("aic_num_cores", "use num_cores"),
        ("-mos", "use mos"),
        ("custom-IO-list-file", "leave it out"),
        ("compile_only", "leave it out"),
        ("mxfp6_matmul", "use mxfp6_matmul"),
    ],
)
def test_raw_options_do_not_repeat_ours(key: str, message: str) -> None:
    with pytest.raises(OptionError, match=f"'{key}'.*{message}"):
        compiler_flags(job(compiler_options={key: 1}))


@pytest.mark.parametrize("options", [{"ols": {}}, {"ols": 1, "-ols": 2}, {"a_b": 1, "a-b": 1}])
def test_raw_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="compiler_options"):
        compiler_flags(job(compiler_options=options))


def test_a_raw_zero_is_a_value() -> None:
    assert "-io-crc-stride=0" in command(MODEL, FOLDER, job(compiler_options={"io_crc_stride": 0}), NEW)


def test_compiles(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    sdk = fake_sdk.sdk_tree(tmp_path / "sdk")
    compiled = compile_onnx(onnx_path, folder, job(num_devices=2, mxint8_kv_cache=True), sdk)
    assert (folder / "qpc" / "programqpc.bin").read_bytes() == fake_sdk.GOOD_QPC
    assert sorted(path.name for path in folder.iterdir()) == [
        "compile.log",
        "custom_io.yaml",
        "mdp_ts_2.json",
        "qpc",
        "specializations.json",
    ]
    assert compiled.inputs["past_key.0"] == Binding(dtype="mxint8", shape=(1, 2, 32, 4))
    assert compiled.command is None
    assert "compiled" in (folder / "compile.log").read_text()
    assert json.loads((folder / "specializations.json").read_text())["specializations"][0]["name"] == "Prefill"


def test_everything_is_there_before_the_compiler_runs(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    look = """
import pathlib, sys
for argument in sys.argv[1:]:
    path = pathlib.Path(argument.partition("=")[2])
    if "binary-dir" in argument:
        assert not path.exists()
    elif "/" in str(path):
        assert path.stat().st_size, path
        print("read", path.name)
"""
    sdk = fake_sdk.sdk_tree(tmp_path / "sdk", code=look + fake_sdk.WRITE_QPC)
    compile_onnx(onnx_path, folder, job(num_devices=2, mxint8_kv_cache=True), sdk)
    log = (folder / "compile.log").read_text()
    for name in (onnx_path.name, "specializations.json", "custom_io.yaml", "mdp_ts_2.json"):
        assert f"read {name}" in log


def failing(tmp_path: Path, code: str) -> QaicSDK:
    return fake_sdk.sdk_tree(tmp_path / "sdk", code=code)


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        (
            "Invalid option -user-tiled. Use -h, -help, or --help for list of options.",
            "does not know -user-tiled: it is older",
        ),
        (
            "[json.exception.type_error.302] type must be string, but is object",
            "'specialization_format': 'flat'",
        ),
        ("Error: No input that uniquely identifies specialization", "drop one"),
        ("Memory resource exhausted", "Memory ran out"),
    ],
)
def test_failure_says_what_to_do(tmp_path: Path, onnx_path: Path, folder: Path, said: str, advised: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_onnx(onnx_path, folder, job(), failing(tmp_path, f"print({said!r}); raise SystemExit(255)"))
    assert "exit status 255" in str(caught.value)
    assert advised in str(caught.value)


def test_a_compiler_that_writes_nothing(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    with pytest.raises(CompileError, match=r"wrote no .*programqpc\.bin"):
        compile_onnx(onnx_path, folder, job(), failing(tmp_path, "print('fine')"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (fake_sdk.GOOD_QPC[:10], "10 bytes"),
        (fake_sdk.GOOD_QPC[:-1], "31 bytes, its header says 32"),
        (b"x" * 100, "expected 0x00a1cd7c, got 0x78787878"),
    ],
)
def test_a_program_that_is_not_whole(
    tmp_path: Path, onnx_path: Path, folder: Path, content: bytes, message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        compile_onnx(onnx_path, folder, job(), writing(tmp_path, content))


def writing(tmp_path: Path, content: bytes) -> QaicSDK:
    return failing(tmp_path, fake_sdk.WRITE_QPC.replace(repr(fake_sdk.GOOD_QPC), repr(content)))


def test_a_strange_header_can_be_accepted(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    compile_onnx(onnx_path, folder, job(compiler_options={"verify_qpc": False}), writing(tmp_path, b"x" * 100))
    assert (folder / "qpc" / "programqpc.bin").read_bytes() == b"x" * 100


def test_a_strange_header_of_several_devices_is_reported(
    tmp_path: Path, onnx_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compile_onnx(onnx_path, folder, job(num_devices=2), writing(tmp_path, b"x" * 100))
    assert "0x78787878" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompileError, match="0 bytes"):
        compile_onnx(onnx_path, tmp_path / "empty", job(num_devices=2), writing(tmp_path, b""))


def test_magic_is_that_of_the_open_runtime() -> None:
    assert fake_sdk.GOOD_QPC[:4] == bytes([0x7C, 0xCD, 0xA1, 0x00])
    assert struct.calcsize("<IBBHQQ") == 24


def test_what_an_earlier_compiler_left_is_not_taken_for_ours(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    (folder / "qpc").mkdir()
    (folder / "qpc" / "programqpc.bin").write_bytes(fake_sdk.GOOD_QPC)
    with pytest.raises(CompileError, match="already exists"):
        compile_onnx(onnx_path, folder, job(), fake_sdk.sdk_tree(tmp_path / "sdk"))


def test_dry_run_writes_and_says_and_needs_no_sdk(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    found = compile_onnx(onnx_path, folder, job(dry_run=True), None)
    assert found.command or "".startswith("/opt/qti-aic/exec/qaic-compile -aic-hw -aic-hw-version=ai100 -m=")
    assert sorted(path.name for path in folder.iterdir()) == ["custom_io.yaml", "specializations.json"]
    sdk = fake_sdk.sdk_tree(tmp_path / "sdk", code="raise SystemExit('must not run')")
    assert str(sdk.compiler) in compile_onnx(onnx_path, folder, job(dry_run=True), sdk).command or ""
    assert prepare(onnx_path, folder, job(), sdk)[0] == str(sdk.compiler)


def test_indistinguishable_specializations_stop_before_the_compiler(
    tmp_path: Path, onnx_path: Path, folder: Path
) -> None:
    sizes = {"batch_size": 1, "seq_len": 1, "ctx_len": 32}
    with pytest.raises(OptionError, match="same input shapes"):
        compile_onnx(onnx_path, folder, job(("A", sizes), ("B", sizes)), fake_sdk.sdk_tree(tmp_path / "sdk"))
    assert not list(folder.iterdir())


def test_check_needs_an_sdk() -> None:
    with pytest.raises(TargetUnavailable, match="Apps SDK"):
        check(job(), None)
    with pytest.raises(TargetUnavailable, match="QEFF_QAIC_SDK"):
        check(job(), NEW)
    check(job(dry_run=True), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "fp16"),
        ({"mos": 32}, "num_cores=16"),
        ({"num_devices": 3, "mdp_num_partitions": 2}, "evenly"),
        ({"node_precision_info": "gone.yaml"}, "cannot be read"),
        ({"compiler_options": {"mos": 2}}, "use mos"),
        ({"compiler_options": {"specialization_format": 3}}, "'named'"),
        ({"num_devices": 2, "compiler_options": {"mdp_dump_partition_config": "f"}}, "leave out either"),
    ],
)
def test_check_finds_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    sdk = fake_sdk.sdk_tree(tmp_path / "sdk")
    check(job(), sdk)
    with pytest.raises(OptionError, match=message):
        check(job(**options), sdk)


def test_check_asks_the_card_for_its_cores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sdk = fake_sdk.sdk_tree(tmp_path / "sdk")
    tool = tmp_path / "sdk" / "tools" / "qaic-util"
    fake_sdk.script(tool, "print('QID 4\\n\\tStatus:Ready\\n\\tNsp Total:14\\n\\tSku Type:PCIe')")
    check(job(num_cores=14), sdk)
    with pytest.raises(OptionError, match=r"num_cores=16.*QID 4, PCIe.*14"):
        check(job(), sdk)
    fake_sdk.script(tool, "raise SystemExit(1)")
    check(job(), sdk)
    assert "Not checked" in caplog.text


def test_key_tells_apart_what_compiles_to_other_things() -> None:
    sizes = {"batch_size": 1, "seq_len": 4, "ctx_len": 32}
    jobs = [
        job(),
        job(num_cores=14),
        job(num_devices=2),
        job(num_devices=2, mdp_num_partitions=2),
        job(mxfp6_matmul=True),
        job(mxint8_kv_cache=True),
        job(precision="fp32"),
        job(use_onnx_subfunctions=True),
        job(aic_hw_version="ai200"),
        job(("Prefill", sizes)),
        job(("Decode", sizes)),
        job(compiler_options={"ols": 2}),
        job(compiler_options={"specialization_format": "flat"}),
        job(dry_run=True),
    ]
    keys = [digest(key_ingredients(each, NEW)) for each in jobs]
    keys += [digest(key_ingredients(job(), OLD)), digest(key_ingredients(job(), None))]
    assert len({*keys}) == len(keys)
    same = [job(precision="fp16"), job(compiler_options={"verify_qpc": False}), job(compiler_options={"ols": False})]
    assert {digest(key_ingredients(each, NEW)) for each in same} == {keys[0]}


def test_key_has_the_content_of_files_and_no_path(tmp_path: Path) -> None:
    def key(name: str, text: str, option: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        raw = {"load_profile": str(path)} if option == "raw" else {}
        own = {} if raw else {option: str(path)}
        found = key_ingredients(job(compiler_options=raw, **own), NEW)
        assert str(tmp_path) not in json.dumps(found)
        return digest(found)

    for option in ("node_precision_info", "mdp_load_partition_config", "raw"):
        assert key("a", "one", option) == key("b", "one", option) != key("a", "two", option)


def test_toolchain_names_compiler_and_version() -> None:
    assert toolchain(NEW) == {"compiler": "qaic-compile", "qaic_sdk": "1.22.0.41"}
    assert toolchain(OLD)["compiler"] == "qaic-exec"
    assert toolchain(None) == {"compiler": "qaic-compile", "qaic_sdk": "unknown"}
