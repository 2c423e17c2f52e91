"""Finding the card's SDK, asking its cards and importing its runtime, with trees of files in its place."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import fake_sdk
import pytest

from QEfficient.compile import qaic_sdk
from QEfficient.compile.qaic_sdk import Device, QaicSDK, import_runtime, parse_devices, why_cannot_run, why_unavailable
from QEfficient.errors import TargetUnavailable

QUERY = """QID 0
\tStatus:Ready
\tPCI Address:0000:01:00.0
\tHW Version:2.0.0.0
\tFW Version:1.22.0
\tFW QC_IMAGE_VERSION:AIC.1
\tFW IMAGE_VARIANT:AIC100.LA
\tNSP IMAGE_VARIANT:AIC200.no
\tDram Total:32768 MB
\tDram Free:30000 MB
\tDram Fragmentation:0.00%
\tNsp Total:16
\tNsp Free:14
\tNSP Frequency(Mhz):595.20
\tSku Type:PCIe Ultra
QID 7
\tStatus:Error
\tDev Link:none
"""


@pytest.fixture(autouse=True)
def no_sdk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEFF_QAIC_SDK", raising=False)
    monkeypatch.setattr(qaic_sdk, "DEFAULT_ROOT", tmp_path / "default")


def cards(root: Path, code: str) -> QaicSDK:
    fake_sdk.script(root / "tools" / "qaic-util", code)
    found = QaicSDK.find(root)
    assert found is not None
    return found


def runtime(root: Path, mark: str) -> QaicSDK:
    folders = QaicSDK(root=root).library_folders
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "qaicrt.py").write_text("import sys\nfrom helper_of_runtime import MARK\nPATH = list(sys.path)\n")
    (folders[0] / "helper_of_runtime.py").write_text(f"MARK = {mark!r}\n")
    (folders[1] / "QAicApi_pb2.py").write_text(f"MARK = {mark!r}\n")
    return QaicSDK(root=root)


def test_argument_goes_before_environment_before_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert QaicSDK.find() is None
    roots = [tmp_path / name for name in ("default", "environment", "argument")]
    for root in roots:
        fake_sdk.sdk_tree(root)
    assert getattr(QaicSDK.find(), "root", None) == roots[0]
    monkeypatch.setenv("QEFF_QAIC_SDK", str(roots[1]))
    assert getattr(QaicSDK.find(), "root", None) == roots[1]
    assert getattr(QaicSDK.find(roots[2]), "root", None) == roots[2]


def test_the_deprecated_compiler_is_second_choice(tmp_path: Path) -> None:
    assert fake_sdk.sdk_tree(tmp_path, compiler="qaic-exec").compiler == tmp_path / "exec" / "qaic-exec"
    assert fake_sdk.sdk_tree(tmp_path).compiler == tmp_path / "exec" / "qaic-compile"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (fake_sdk.APPS_XML.format(base="1.21", build=6), "1.21.6"),
        ("<v xmlns='x'><base_version> 1.22 </base_version></v>", "1.22"),
        ("<v><version>1.20.4.1</version></v>", "1.20.4.1"),
        ("<v><base_version>soon</base_version></v>", None),
        ("<v><base_version>1.22", None),
        ("", None),
    ],
)
def test_version(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "apps.xml").write_text(text)
    assert qaic_sdk.read_version(tmp_path / "apps.xml") == version


def test_version_of_a_missing_file_is_unknown(tmp_path: Path) -> None:
    assert qaic_sdk.read_version(tmp_path / "apps.xml") is None
    assert fake_sdk.sdk_tree(tmp_path, version=None).version is None
    assert [qaic_sdk.version_pair(text) for text in ("1.21.6", "1.9", "x", None)] == [(1, 21), (1, 9), None, None]


def test_what_the_tool_prints_is_read() -> None:
    ready, broken = parse_devices(QUERY)
    assert ready == Device(
        qid=0,
        status="Ready",
        fw_image_variant="AIC100.LA",
        nsp_image_variant="AIC200.no",
        hw_version="2.0.0.0",
        dram_total_mb=32768,
        dram_free_mb=30000,
        nsp_total=16,
        nsp_free=14,
        sku="PCIe Ultra",
    )
    assert broken == Device(qid=7, status="Error")
    assert parse_devices("no devices") == []


def test_chip_is_the_firmwares(tmp_path: Path) -> None:
    """By the variant of its cores; where the tool does not report it, by that of the firmware."""
    sdk = cards(tmp_path, f"print({QUERY!r})")
    assert [device.qid for device in sdk.devices()] == [0, 7]
    assert sdk.hw_version() == "ai200"
    assert cards(tmp_path, f"print({QUERY.replace('AIC200.no', 'AIC100.no')!r})").hw_version() == "ai100"
    older = QUERY.replace("\tNSP IMAGE_VARIANT:AIC200.no\n", "")
    assert cards(tmp_path, f"print({older!r})").hw_version() == "ai100"
    assert cards(tmp_path, f"print({older.replace('AIC100.LA', 'AIC200.LA')!r})").hw_version() == "ai200"


def test_no_tool_is_no_device_and_a_failing_one_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert QaicSDK(root=tmp_path).devices() == []
    assert QaicSDK(root=tmp_path).hw_version() == "ai100"
    assert caplog.text == ""
    sdk = cards(tmp_path, "import sys; sys.exit('permission denied on the accel node')")
    with pytest.raises(TargetUnavailable, match="exit status 1: permission denied"):
        sdk.devices()
    assert sdk.hw_version() == "ai100"
    assert "aic_hw_version" in caplog.text
    with pytest.raises(TargetUnavailable, match=r"0\.2 s"):
        cards(tmp_path, "import time; time.sleep(30)").devices(timeout_s=0.2)


def test_why_unavailable_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "install the Cloud AI 100 Apps SDK" in (why_unavailable() or "")
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "gone"))
    assert f"{tmp_path / 'gone'} (from QEFF_QAIC_SDK)" in (why_unavailable() or "")
    assert "no compiler (exec/qaic-compile)" in (why_unavailable(tmp_path) or "")
    sdk = fake_sdk.sdk_tree(tmp_path)
    assert why_unavailable(tmp_path) is None
    assert sdk.compiler
    sdk.compiler.chmod(0o644)
    assert "chmod a+x" in (why_unavailable(tmp_path) or "")


def test_why_cannot_run_names_what_is_missing(tmp_path: Path) -> None:
    assert "no SDK" in (why_cannot_run(tmp_path / "gone") or "")
    fake_sdk.sdk_tree(tmp_path)
    assert "no module qaicrt" in (why_cannot_run(tmp_path) or "")
    runtime(tmp_path, "x")
    assert "no card is ready (none detected)" in (why_cannot_run(tmp_path) or "")
    cards(tmp_path, "print('QID 3\\n\\tStatus:Error')")
    assert "QID 3: Error" in (why_cannot_run(tmp_path) or "")
    cards(tmp_path, "import sys; sys.exit(3)")
    assert "exit status 3" in (why_cannot_run(tmp_path) or "")
    cards(tmp_path, "print('QID 3\\n\\tStatus:Ready')")
    assert why_cannot_run(tmp_path) is None


def test_two_runtimes_stay_apart_and_the_path_as_it_was(tmp_path: Path) -> None:
    before = list(sys.path)
    first, second = (runtime(tmp_path / name, name) for name in ("first", "second"))
    modules = [module for sdk in (first, second, first) for module in import_runtime(sdk)]
    assert [module.MARK for module in modules] == ["first", "first", "second", "second", "first", "first"]
    assert modules[0] is modules[4]
    assert str(first.library_folders[0]) in modules[0].PATH
    assert sys.path == before
    assert not {"qaicrt", "QAicApi_pb2", "helper_of_runtime"} & set(sys.modules)


def test_a_runtime_that_is_imported_already_is_not_loaded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk, other = runtime(tmp_path / "a", "a"), runtime(tmp_path / "b", "b")
    monkeypatch.syspath_prepend(sdk.library_folders[0])
    import qaicrt  # type: ignore[import-not-found]

    try:
        assert import_runtime(sdk)[0] is qaicrt
        assert import_runtime(other)[0].MARK == "b"
    finally:
        del sys.modules["qaicrt"], sys.modules["helper_of_runtime"]


def test_what_a_runtime_imports_from_elsewhere_is_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator's runtime is a few lines that import a module of the library with the same name."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").write_text("")
    (tmp_path / "library" / "qaicrt.py").write_text("DEVICES = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    sdks = [runtime(tmp_path / name, name) for name in "ab"]
    for sdk in sdks:
        (sdk.library_folders[0] / "qaicrt.py").write_text("from library.qaicrt import *\n")
    first, second = (import_runtime(sdk)[0] for sdk in sdks)
    assert first is not second
    assert first.DEVICES is second.DEVICES is sys.modules["library.qaicrt"].DEVICES


def test_runtime_for_another_python(tmp_path: Path) -> None:
    sdk = runtime(tmp_path, "x")
    (sdk.library_folders[0] / "qaicrt.py").rename(sdk.library_folders[0] / "qaicrt.cpython-38-x86_64-linux-gnu.so")
    with pytest.raises(TargetUnavailable, match=r"cpython-38.*this is Python 3"):
        import_runtime(sdk)


def test_runtime_that_does_not_load(tmp_path: Path) -> None:
    sdk, before = runtime(tmp_path, "x"), set(sys.modules)
    (sdk.library_folders[0] / "qaicrt.py").write_text("raise ImportError('compiled for Python 3.8')")
    with pytest.raises(TargetUnavailable, match=f"{platform.python_version()}: compiled for Python 3.8"):
        import_runtime(sdk)
    assert set(sys.modules) == before


def test_importing_the_module_asks_nothing() -> None:
    code = "import sys; from QEfficient.compile import qaic_sdk; print('onnx' in sys.modules, 'qaicrt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
