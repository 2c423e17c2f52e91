"""The QNN path: upstream's files and arguments, and the same package at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_sdk
import pytest
import yaml
from fake_sdk import job

from QEfficient.compile import qnn_compiler
from QEfficient.compile.custom_io import read_graph_io
from QEfficient.compile.qnn_compiler import QnnCompiler, prepare
from QEfficient.contract import Binding, CompiledGraph
from QEfficient.errors import CompileError, OptionError, TargetUnavailable
from QEfficient.store.digests import digest

CONVERTER = """
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(arguments["--config"]).stat().st_size
pathlib.Path(arguments["--output_path"]).write_text("dlc")
"""
GENERATOR = f"""
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(arguments["--dlc_path"]).read_text() == "dlc"
extension = json.loads(pathlib.Path(arguments["--config_file"]).read_text())["backend_extensions"]
assert json.loads(pathlib.Path(extension["config_file_path"]).read_text())["compiler_num_of_cores"]
(pathlib.Path(arguments["--output_dir"]) / arguments["--backend_binary"]).write_bytes({fake_sdk.GOOD_QPC!r})
"""
BACKEND = {
    "compiler_compilation_target": "hardware",
    "compiler_hardware_version": "2.0",
    "compiler_convert_to_FP16": True,
    "compiler_retained_state": True,
    "graph_names": ["model_configuration_1", "model_configuration_2"],
    "compiler_enable_depth_first": False,
    "compiler_mxfp6_matmul_weights": False,
    "compiler_num_of_cores": 16,
    "compiler_do_DDR_to_multicast": True,
    "compiler_perfWarnings": False,
    "compiler_printDDRStats": False,
    "compiler_printPerfMetrics": False,
    "compiler_stat_level": 10,
    "compiler_stats_batch_size": 1,
    "compiler_time_passes": False,
    "compiler_mxint8_mdp_io": False,
}
IO_CONFIG = """Input Tensor Configuration:
- Name: input_ids
  Desired Model Parameters:
    DataType: int64
    Shape: (1, 8), (1, 1)
- Name: position_ids
  Desired Model Parameters:
    DataType: int64
    Shape: (1, 8), (1, 1)
- Name: past_key.0
  Desired Model Parameters:
    DataType: uint8
    Shape: (1, 2, 32, 4)
- Name: past_value.0
  Desired Model Parameters:
    DataType: uint8
    Shape: (1, 2, 32, 4)
Output Tensor Configuration:
- Name: logits
  Desired Model Parameters:
    DataType: float32
- Name: past_key.0_RetainedState
  Desired Model Parameters:
    DataType: uint8
- Name: past_value.0_RetainedState
  Desired Model Parameters:
    DataType: uint8
"""


@pytest.fixture(autouse=True)
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "qnn sdk"
    fake_sdk.script(root / "bin" / "x86_64-linux-clang" / "qairt-converter", CONVERTER)
    fake_sdk.script(root / "bin" / "x86_64-linux-clang" / "qnn-context-binary-generator", GENERATOR)
    (root / "sdk.yaml").write_text("product: qnn\nversion: 2.31.0.1\n")
    monkeypatch.setenv("QNN_SDK_ROOT", str(root))
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))
    return root


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return fake_sdk.decoder(tmp_path / "model.onnx", num_layers=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def check(job: Any) -> None:
    QnnCompiler(job.options.qnn_config).check(job)


def compile_onnx(onnx_path: Path, folder: Path, job: Any) -> CompiledGraph:
    compiler = QnnCompiler(job.options.qnn_config)
    compiler.check(job)
    return compiler.compile(onnx_path, folder, job)


def key(job: Any) -> str:
    return digest(QnnCompiler(job.options.qnn_config).key(job))


def qnn_job(*specializations: Any, **options: Any) -> Any:
    return job(*specializations, enable_qnn=True, **options)


def with_config(tmp_path: Path, content: Any) -> Any:
    (tmp_path / "qnn.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return qnn_job(qnn_config=str(tmp_path / "qnn.json"))


def prepared(onnx_path: Path, folder: Path, job: Any) -> list[list[str]]:
    return prepare(onnx_path, folder, read_graph_io(onnx_path), job, QnnCompiler(job.options.qnn_config).config)


def test_commands_are_upstreams(onnx_path: Path, folder: Path, sdk: Path) -> None:
    tools, libraries = sdk / "bin" / "x86_64-linux-clang", sdk / "lib" / "x86_64-linux-clang"
    convert, generate = prepared(onnx_path, folder, qnn_job(mxint8_kv_cache=True))
    assert convert == [
        f"{tools}/qairt-converter",
        *("--input_network", str(onnx_path)),
        *("--output_path", f"{folder}/model.dlc"),
        *("--config", f"{folder}/custom_io_config.yaml"),
        *("--float_bias_bitwidth", "32"),
        *("--float_bitwidth", "16"),
        "--preserve_io_datatype",
        "--onnx_skip_simplification",
        *("--target_backend", "AIC"),
    ]
    assert generate == [
        f"{tools}/qnn-context-binary-generator",
        *("--binary_file", "qnngraph.serialized"),
        *("--backend_binary", "programqpc.bin"),
        *("--output_dir", f"{folder}/qpc"),
        *("--backend", f"{libraries}/libQnnAic.so"),
        *("--dlc_path", f"{folder}/model.dlc"),
        *("--config_file", f"{folder}/qnn_compiler_config.json"),
        *("--data_format_config", f"{folder}/qnn_data_format_config.json"),
        *("--log_level", "error"),
    ]
    assert json.loads((folder / "qnn_compiler_config.json").read_text()) == {
        "backend_extensions": {
            "config_file_path": f"{folder}/qnn_compile_backend.json",
            "shared_library_path": f"{libraries}/libQnnAicNetRunExtensions.so",
        }
    }


def test_files_are_upstreams(onnx_path: Path, folder: Path) -> None:
    prepared(onnx_path, folder, qnn_job(mxint8_kv_cache=True))
    assert (folder / "custom_io_config.yaml").read_text() == IO_CONFIG
    assert json.loads((folder / "qnn_compile_backend.json").read_text()) == BACKEND
    names = ["past_key_0", "past_value_0", "past_key_0_RetainedState", "past_value_0_RetainedState"]
    tensors = [{"tensor_name": name, "dataFormat": "QNN_TENSOR_DATA_FORMAT_MX"} for name in names]
    assert json.loads((folder / "qnn_data_format_config.json").read_text()) == {
        "graphs": [{"graph_name": f"model_configuration_{number}", "tensors": tensors} for number in (1, 2)]
    }


def test_options_reach_the_backend(onnx_path: Path, folder: Path) -> None:
    asked: dict[str, Any] = {"num_cores": 14, "mos": 2, "num_devices": 2, "precision": "fp32", "aic_hw_version": "3"}
    asked |= {"aic_enable_depth_first": True, "allow_mxint8_mdp_io": True}
    convert, generate = prepared(onnx_path, folder, qnn_job(**asked))
    backend = json.loads((folder / "qnn_compile_backend.json").read_text())
    assert {key: value for key, value in backend.items() if BACKEND.get(key) != value} == {
        "compiler_hardware_version": "3",
        "compiler_convert_to_FP16": False,
        "compiler_enable_depth_first": True,
        "compiler_num_of_cores": 14,
        "compiler_mxint8_mdp_io": True,
        "compiler_max_out_channel_split": "2",
        "compiler_mdp_load_partition_config": f"{folder}/tensor_slicing.json",
    }
    assert json.loads((folder / "tensor_slicing.json").read_text()) == {
        "connections": [{"devices": [0, 1], "type": "p2p"}],
        "partitions": [{"name": "Partition0", "devices": [{"deviceId": 0}, {"deviceId": 1}]}],
    }
    assert convert[convert.index("--float_bitwidth") + 1] == "32"
    assert "--data_format_config" not in generate
    assert yaml.safe_load((folder / "custom_io_config.yaml").read_text())["Input Tensor Configuration"][2] == {
        "Name": "past_key.0",
        "Desired Model Parameters": {"DataType": "float32", "Shape": "(1, 2, 32, 4)"},
    }


def test_one_specialization_is_one_graph(onnx_path: Path, folder: Path) -> None:
    prepared(onnx_path, folder, qnn_job(("Prefill", {"batch_size": 1, "seq_len": 8, "ctx_len": 32})))
    assert json.loads((folder / "qnn_compile_backend.json").read_text())["graph_names"] == ["model"]
    assert "Shape: (1, 8)\n" in (folder / "custom_io_config.yaml").read_text()


def test_compiles_to_the_same_package(onnx_path: Path, folder: Path) -> None:
    found = compile_onnx(onnx_path, folder, qnn_job())
    assert (folder / "qpc" / "programqpc.bin").read_bytes() == fake_sdk.GOOD_QPC
    assert found.inputs["input_ids"] == Binding(dtype="int64", shape=(1, -1))
    assert {path.name for path in folder.iterdir()} >= {"compile.log", "convert.log", "model.dlc", "qpc"}
    with pytest.raises(CompileError, match="already exists"):
        compile_onnx(onnx_path, folder, qnn_job())


def test_a_tool_that_fails(onnx_path: Path, folder: Path, sdk: Path) -> None:
    tools = sdk / "bin" / "x86_64-linux-clang"
    fake_sdk.script(tools / "qnn-context-binary-generator", "print('no'); raise SystemExit(4)")
    with pytest.raises(
        CompileError, match=r"(?s)qnn-context-binary-generator failed with exit status 4.*'.*/qnn sdk/bin"
    ):
        compile_onnx(onnx_path, folder, qnn_job())
    fake_sdk.script(tools / "qairt-converter", "pass")
    (folder / "model.dlc").unlink()
    (folder / "qpc").rmdir()
    with pytest.raises(CompileError, match="qairt-converter ended well, and wrote no"):
        compile_onnx(onnx_path, folder, qnn_job())


def test_dry_run_says_both_commands_without_an_sdk(
    onnx_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT")
    said = compile_onnx(onnx_path, folder, qnn_job(dry_run=True)).command or ""
    assert "qairt-converter" in said.partition(" && ")[0]
    assert "qnn-context-binary-generator" in said.partition(" && ")[2]
    assert not (folder / "qpc").exists()


def test_the_sdk_is_looked_for_first(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    with pytest.raises(TargetUnavailable, match="no bin/x86_64-linux-clang/qairt-converter"):
        compile_onnx(tmp_path / "no.onnx", folder, qnn_job())
    monkeypatch.delenv("QNN_SDK_ROOT")
    with pytest.raises(TargetUnavailable, match="set QNN_SDK_ROOT"):
        check(qnn_job())
    assert qnn_compiler.toolchain() == {"compiler": "qnn", "qnn_sdk": "unknown"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compiler_options": {"ols": 1}}, "compiler_options .*it is for qaic-compile"),
        ({"node_precision_info": "n.yaml"}, "node_precision_info .*it is for qaic-compile"),
        ({"num_devices": 2, "mdp_num_partitions": 2}, "mdp_load_partition_config"),
        ({"precision": "bf16"}, "fp16"),
        ({"mos": 17}, "num_cores"),
    ],
)
def test_options_that_qnn_does_not_have(options: dict[str, Any], message: str) -> None:
    check(qnn_job())
    with pytest.raises(OptionError, match=message):
        check(qnn_job(**options))


def test_more_than_two_specializations() -> None:
    three = [("S", {"batch_size": 1, "seq_len": n, "ctx_len": 32}) for n in (1, 2, 3)]
    with pytest.raises(OptionError, match="has 3: S_0, S_1, S_2"):
        check(qnn_job(*three))


def test_extensions_are_added(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    given = {
        "converter_args_extension": "--onnx_defer_loading --note 'a b'",
        "context_binary_generator_args_extension": "--log_level debug",
        "qnn_compilation_backend": {"compiler_printDDRStats": True, "compiler_compileThreads": 4},
    }
    convert, generate = prepared(onnx_path, folder, with_config(tmp_path, given))
    assert convert[-5:] == ["--target_backend", "AIC", "--onnx_defer_loading", "--note", "a b"]
    assert generate[-2:] == ["--log_level", "debug"]
    assert "error" not in generate
    backend = json.loads((folder / "qnn_compile_backend.json").read_text())
    assert backend == {**BACKEND, "compiler_printDDRStats": True, "compiler_compileThreads": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"converter_args_extension": "--float_bitwidth=32 --config x"}, "may not set --config, --float_bitwidth:"),
        ({"context_binary_generator_args_extension": "--backend x"}, "may not set --backend:"),
        ({"converter_args_extension": ["--x"]}, "one text"),
        ({"qnn_compilation_backend": []}, "by name"),
        ({"convertor_args_extension": ""}, "Did you mean 'converter_args_extension'"),
        ([1], "unknown 'list'"),
        ("{", "cannot be read"),
    ],
)
def test_a_config_that_is_not_as_it_should_be(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check(with_config(tmp_path, content))


def test_converting_can_be_skipped_where_it_was_done(tmp_path: Path, onnx_path: Path, folder: Path) -> None:
    skipping = with_config(tmp_path, {"SKIP_QNN_CONVERTER_STEP": True})
    with pytest.raises(CompileError, match="SKIP_QNN_CONVERTER_STEP"):
        compile_onnx(onnx_path, folder, skipping)
    (folder / "model.dlc").write_text("dlc")
    compile_onnx(onnx_path, folder, skipping)
    assert not (folder / "convert.log").exists()


def test_upstreams_function(tmp_path: Path, onnx_path: Path) -> None:
    options: dict[str, Any] = {"prompt_len": 8, "ctx_len": 32, "mxint8": True}
    made = qnn_compiler.compile(str(onnx_path), str(tmp_path / "a" / "b"), 14, [3, 4], **options)
    assert made == str(tmp_path / "a" / "b" / "qpc")
    assert (Path(made) / "programqpc.bin").read_bytes() == fake_sdk.GOOD_QPC
    assert (tmp_path / "a" / "b" / "custom_io_config.yaml").read_text() == IO_CONFIG
    backend = json.loads((tmp_path / "a" / "b" / "qnn_compile_backend.json").read_text())
    assert backend["compiler_num_of_cores"] == 14
    assert backend["compiler_mxfp6_matmul_weights"] is True
    assert "compiler_max_out_channel_split" not in backend
    assert "compiler_mdp_load_partition_config" in backend


def test_upstreams_function_with_slots(tmp_path: Path, onnx_path: Path) -> None:
    qnn_compiler.compile(onnx_path, tmp_path / "q", 16, prompt_len=8, ctx_len=32, full_batch_size=3)
    entries = yaml.safe_load((tmp_path / "q" / "custom_io_config.yaml").read_text())["Input Tensor Configuration"]
    assert entries[0]["Desired Model Parameters"]["Shape"] == "(1, 8), (3, 1)"


def test_key_tells_apart_what_compiles_to_other_things(tmp_path: Path, sdk: Path) -> None:
    jobs = [
        qnn_job(),
        qnn_job(num_cores=14),
        qnn_job(num_devices=2),
        qnn_job(mxint8_kv_cache=True),
        qnn_job(precision="fp32"),
        with_config(tmp_path, {"converter_args_extension": "--x"}),
        qnn_job(("P", {"batch_size": 1, "seq_len": 8, "ctx_len": 64})),
    ]
    keys = [key(each) for each in jobs]
    assert qnn_compiler.toolchain() == {"compiler": "qnn", "qnn_sdk": "2.31.0.1"}
    (sdk / "sdk.yaml").write_text("version: 2.32\n")
    keys.append(key(qnn_job()))
    assert len({*keys}) == len(keys)
