"""The folder that looks like the SDK: its programs as processes, its modules as a client imports them."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from simulator.harness import DECODE, DECODER_FLAGS, PREFILL, arguments, state_io

from QEfficient.errors import OptionError, StorageError
from QEfficient.simulator.__main__ import main
from QEfficient.simulator.sdk import install


def call(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)


def compile_command(sdk: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return call(sdk / "exec" / "qaic-compile", *flags)


def test_tree(sdk: Path) -> None:
    assert os.access(sdk / "exec" / "qaic-compile", os.X_OK)
    assert os.access(sdk / "tools" / "qaic-util", os.X_OK)
    assert (sdk / "dev" / "lib" / platform.machine() / "qaicrt.py").is_file()
    for name in ("apps", "platform"):
        tree = ElementTree.parse(sdk / "versions" / f"{name}.xml")
        assert tree.findtext("ci_build/base_version") == "1.22.0"


def test_installing_again(tmp_path: Path) -> None:
    root = install(tmp_path / "deep" / "sdk")
    before = (root / "exec" / "qaic-compile").stat()
    assert install(root) == root
    assert (root / "exec" / "qaic-compile").stat() == before  # nothing was written
    install(root, "1.21.6.2")
    assert "1.21.6" in (root / "versions" / "apps.xml").read_text()
    assert [path.name for path in root.parent.iterdir()] == ["sdk"]
    with pytest.raises(OptionError, match="SDK version"):
        install(root, "new")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    with pytest.raises(StorageError, match="is no SDK"):
        install(tmp_path / "work")
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_install_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", str(tmp_path / "sdk"), "--sdk-version=1.21.0.1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sdk")
    assert main(["install", str(tmp_path / "other"), "--sdk-version=x"]) == 1
    assert "SDK version" in capsys.readouterr().err


def test_compiler_process(sdk: Path, decoder: Path, tmp_path: Path) -> None:
    specializations = [
        {"name": name, "symbols": symbols} for name, symbols in (("Prefill", PREFILL), ("Decode", DECODE))
    ]
    argv = arguments(
        decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=specializations, custom_io=state_io("float16")
    )
    done = compile_command(sdk, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in (tmp_path / "qpc").iterdir()] == ["programqpc.bin"]
    again = compile_command(sdk, *argv)
    assert again.returncode != 0
    assert "exists already" in again.stderr


def test_compiler_process_of_an_older_sdk(decoder: Path, tmp_path: Path) -> None:
    old = install(tmp_path / "sdk", "1.21.6.2")
    argv = arguments(decoder, tmp_path / "qpc", specializations=[{"name": "Prefill", "symbols": PREFILL}])
    done = compile_command(old, *argv)
    assert done.returncode == 255
    assert "[json.exception.type_error.302] type must be string, but is object" in done.stderr


def test_compiler_process_names_an_unknown_flag(sdk: Path) -> None:
    done = compile_command(sdk, "-aic-hw", "-retained-stat")
    assert done.returncode == 1
    assert done.stderr == "Invalid option -retained-stat. Use -h, -help, or --help for list of options.\n"


def test_query_tool(sdk: Path, tmp_path: Path) -> None:
    done = call(sdk / "tools" / "qaic-util", "-q")
    assert done.returncode == 0
    assert re.findall(r"^QID (\d+)$", done.stdout, re.MULTILINE) == ["0", "1", "2", "3"]
    assert re.findall(r"FW IMAGE_VARIANT\s*:\s*(\S+)", done.stdout) == ["AIC100"] * 4
    assert "\tNsp Free:16\n\t" in done.stdout
    assert "\tDram Total:30720 MB\n" in done.stdout
    assert not re.search(r": ", done.stdout)
    variables = {"QEFF_SIM_VARIANT": "AIC200", "QEFF_SIM_CORES": "14", "QEFF_SIM_SKU": "PCIe"}
    one = call(sdk / "tools" / "qaic-util", "-q", "-d", "2", "-j", tmp_path / "out.json", **variables)
    assert one.stdout.startswith("QID 2\n\tStatus:Ready\n")
    (device,) = json.loads((tmp_path / "out.json").read_text())["devices"]
    assert (device["QID"], device["Nsp Total"], device["Sku Type"]) == (2, 14, "PCIe")
    assert device["FW IMAGE_VARIANT"] == "AIC200"


def test_query_tool_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from QEfficient.simulator.runtime.query import main as query

    assert query(["-q", "-d", "9"]) == 1
    assert query(["-x"]) == 1
    assert query([]) == 1
    assert "Invalid option -x" in capsys.readouterr().err
    monkeypatch.setenv("QEFF_SIM_CORES", "20")
    assert query(["-q"]) == 1
    assert "QEFF_SIM_CORES is '20'; expected a number from 1 to 16" in capsys.readouterr().err
    monkeypatch.setenv("QEFF_SIM_CORES", "16")
    monkeypatch.setenv("QEFF_SIM_STATUS", "Error")
    assert query(["-q", "-d", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "\tDev Link:sim0"


CLIENT = """
import sys
sys.path.append(sys.argv[1] + "/dev/lib/" + sys.argv[2])
import qaicrt
sys.path.append(sys.argv[1] + "/dev/python")
import QAicApi_pb2 as aicapi

types = [aicapi.FLOAT_TYPE, aicapi.FLOAT_16_TYPE, aicapi.INT8_Q_TYPE, aicapi.UINT8_Q_TYPE, aicapi.INT16_Q_TYPE,
         aicapi.INT32_Q_TYPE, aicapi.INT32_I_TYPE, aicapi.INT64_I_TYPE, aicapi.INT8_TYPE]
assert types == list(range(9))
status, data = qaicrt.Qpc(sys.argv[3]).getIoDescriptor()
assert status == qaicrt.QStatus.QS_SUCCESS
iodesc = aicapi.IoDesc()
iodesc.ParseFromString(bytes(data))
print([b.name for b in iodesc.selected_set.bindings if b.dir == aicapi.BUFFER_IO_TYPE_INPUT])
program = qaicrt.Program(qaicrt.Context(), 0, qaicrt.Qpc(sys.argv[3]), qaicrt.QAicProgramProperties())
assert program.load() == program.activate() == qaicrt.QStatus.QS_SUCCESS
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_client_of_the_real_sdk(sdk: Path, qpc: Path) -> None:
    """Modules are found where the SDK has them, and nothing heavy comes with them."""
    done = call(sys.executable, "-c", CLIENT, sdk, platform.machine(), qpc)
    assert done.returncode == 0, done.stderr
    names, modules = done.stdout.splitlines()
    assert names == "['input_ids', 'position_ids', 'past_key.0', 'past_value.0']"
    assert "onnxruntime" in modules.split()
    assert not {"torch", "transformers", "onnx_ir"} & set(modules.split())


def test_the_compiler_starts_quickly() -> None:
    imports = "import sys, QEfficient.simulator.compiler.driver as c, QEfficient.simulator.compiler.program"
    code = f"{imports}; c.main(['-help']); print(*sys.modules)"
    done = call(sys.executable, "-X", "importtime", "-c", code)
    assert not {"torch", "transformers", "onnxruntime"} & set(done.stdout.split())
    total_us = sum(int(line.split("|")[0].split(":")[1]) for line in done.stderr.splitlines()[1:] if "|" in line)
    assert total_us < 3_000_000  # a second on an idle machine
