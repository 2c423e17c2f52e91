"""What works on this machine: an answer in any case, also where things are missing."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from cloud.commands import Cli

from QEfficient.cloud import doctor
from QEfficient.simulator.sdk import install
from QEfficient.targets import TARGETS

NO_SDK = "no-sdk"


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SDK, no driver, whatever this machine has."""
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / NO_SDK))
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    monkeypatch.setattr(doctor, "NODES", tmp_path / "dev")
    monkeypatch.setattr(doctor, "NODE_CLASS", tmp_path / "class")


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A simulated SDK in the place of the real one, with two cards."""
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "sdk"))
    monkeypatch.setenv("QEFF_SIM_DEVICES", "2")
    return install(tmp_path / "sdk")


def test_json(cli: Cli, own_home: Path) -> None:
    result = cli("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    found = result.json
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["home"] == {
        "path": str(own_home),
        "is_set": True,
        "is_writable": True,
        "free_bytes": found["home"]["free_bytes"],
    }
    assert not own_home.exists()  # looking makes nothing
    assert "FP32" in found["cpu"]["capabilities"]
    assert found["targets"]["cpu"]["works"]


def test_for_people(cli: Cli, own_home: Path) -> None:
    out = cli("doctor").out
    assert f"torch             {metadata.version('torch')}\n" in out
    assert "cpu               yes       this machine's processor" in out
    assert "\x1b" not in out


def test_missing_packages_are_an_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", no_version)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "TARGETS", {"cpu": TARGETS["cpu"]})
    result = cli("doctor")
    assert result.code == 1
    assert result.err == ""
    assert "torch             not installed: pip install torch" in result.out
    assert "OpenVINO on it    OpenVINO does not start" in result.out
    assert "cpu     no        the package 'openvino' is not installed" in result.out


@pytest.mark.parametrize("place", ["file/home", "/proc/home"])
def test_home_that_cannot_be_written(place: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / place))
    result = cli("doctor")
    assert result.code == 1
    assert "NOT WRITABLE" in result.out


def test_default_home_is_said_to_be_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEFF_HOME")
    assert not doctor.examine()["home"]["is_set"]


def test_no_card_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nobody said that there is one."""
    monkeypatch.delenv("QEFF_QAIC_SDK", raising=False)
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    monkeypatch.setattr(doctor.QaicSDK, "find", lambda root=None: None)
    monkeypatch.setattr(doctor, "NODES", tmp_path / "none")
    lines = cli("doctor").out.splitlines()
    assert [line for line in lines if line.startswith("Cloud AI 100 ")] == [
        "Cloud AI 100    none here, which is fine for the targets cpu and cloud-ai-100-sim"
    ]
    assert not [line for line in lines if line.startswith(("Its driver", "QNN SDK"))]


def test_without_sdk(cli: Cli, tmp_path: Path) -> None:
    result = cli("doctor", "--json")
    assert (result.code, result.err) == (0, "")  # there is another target
    card = result.json["cloud_ai_100"]
    assert card["sdk"]["root"] is None
    assert f"there is no SDK at {tmp_path / NO_SDK} (from QEFF_QAIC_SDK): install" in card["sdk"]["problem"]
    assert (card["query_tool"], card["devices"]) == (None, [])
    assert "install the Cloud AI 100 Platform SDK" in card["why_not_run"]
    assert "install the Cloud AI 100 Platform SDK" in card["driver"]["problem"]
    assert "set QNN_SDK_ROOT" in card["qnn"]["problem"]
    assert not result.json["targets"]["cloud-ai-100"]["works"]
    out = cli("doctor").out
    assert "Its query tool    not installed: install the Cloud AI 100 Platform SDK" in out
    assert "QID" not in out


def test_simulated_sdk(cli: Cli, simulated: Path) -> None:
    found = cli("doctor", "--json").json
    card = found["cloud_ai_100"]
    assert (card["sdk"]["root"], card["sdk"]["version"], card["sdk"]["problem"]) == (str(simulated), "1.22.0.0", None)
    assert (card["sdk"]["is_simulated"], card["why_not_run"], card["driver"]["problem"]) == (True, None, None)
    assert [(device["qid"], device["status"], device["nsp_free"]) for device in card["devices"]] == [
        (0, "Ready", 16),
        (1, "Ready", 16),
    ]
    assert found["targets"]["cloud-ai-100"]["works"]


def test_simulated_sdk_for_people(cli: Cli, simulated: Path) -> None:
    out = cli("doctor").out
    assert f"Cloud AI 100 SDK  {simulated}, version 1.22.0.0, SIMULATED, qaic-compile\n" in out
    assert "Its driver        a simulated SDK needs none\n" in out
    assert "Runs programs     yes\n" in out
    assert "0    Ready   PCIe Ultra  16 of 16    30720 of 30720 MB  AIC100\n" in out
    assert "cloud-ai-100      yes       Qualcomm Cloud AI 100" in out


def test_cards_that_are_not_ready(cli: Cli, simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_SIM_STATUS", "Error")
    result = cli("doctor")
    assert result.code == 0
    assert "0    Error   ?    ?           ?            ?\n" in result.out
    assert "Runs programs     no card is ready (QID 0: Error, QID 1: Error)" in result.out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("#!/bin/sh\necho broken >&2\nexit 3\n", "failed with exit status 3: broken"),
        ("not a program", "does not start"),
        ("#!/bin/sh\necho 'no such thing'\n", "no card is ready (none detected)"),
    ],
)
def test_query_tool_that_fails(cli: Cli, simulated: Path, content: str, problem: str) -> None:
    tool = simulated / "tools" / "qaic-util"
    tool.write_text(content)
    result = cli("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    assert problem in result.json["cloud_ai_100"]["why_not_run"]
    assert result.json["cloud_ai_100"]["devices"] == []
    assert problem in cli("doctor").out


def test_sdk_without_a_compiler(cli: Cli, simulated: Path) -> None:
    (simulated / "exec" / "qaic-compile").unlink()
    card = cli("doctor", "--json").json["cloud_ai_100"]
    assert "has no compiler" in card["sdk"]["problem"]
    assert (card["sdk"]["compiler"], card["sdk"]["is_simulated"]) == (None, False)
    assert len(card["devices"]) == 2


def test_driver(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, driver in enumerate(("qaic", "intel_vpu")):
        (tmp_path / "dev").mkdir(exist_ok=True)
        node = tmp_path / "dev" / f"accel{number}"
        node.write_text("")
        (tmp_path / "drivers" / driver).mkdir(parents=True)
        (tmp_path / "class" / node.name / "device").mkdir(parents=True)
        (tmp_path / "class" / node.name / "device" / "driver").symlink_to(tmp_path / "drivers" / driver)
    found = cli("doctor", "--json").json["cloud_ai_100"]["driver"]
    assert [node["driver"] for node in found["nodes"]] == ["qaic"]
    assert found["problem"] is None
    assert f"Its driver        {tmp_path / 'dev' / 'accel0'}\n" in cli("doctor").out

    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "dev" / "accel0")
    problem = cli("doctor", "--json").json["cloud_ai_100"]["driver"]["problem"]
    assert "accel0: run `sudo usermod -aG" in problem


def test_qnn(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "qnn" / "bin" / "x86_64-linux-clang" / "qairt-converter"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    (tmp_path / "qnn" / "sdk.yaml").write_text("version: 2.31.0\n")
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path / "qnn"))
    assert cli("doctor", "--json").json["cloud_ai_100"]["qnn"] == {
        "root": str(tmp_path / "qnn"),
        "version": "2.31.0",
        "problem": None,
    }
    assert f"QNN SDK           {tmp_path / 'qnn'}, version 2.31.0\n" in cli("doctor").out
