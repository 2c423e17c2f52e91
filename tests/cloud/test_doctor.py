"""What works on this machine: an answer in any case, also where things are missing."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from cloud.commands import Cli

from QEfficient.cloud import doctor


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
    assert f"torch           {metadata.version('torch')}\n" in out
    assert "cpu     yes    this machine's processor" in out
    assert "\x1b" not in out


def test_missing_packages_are_an_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", no_version)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = cli("doctor")
    assert result.code == 1
    assert result.err == ""
    assert "torch           not installed: pip install torch" in result.out
    assert "OpenVINO on it  OpenVINO does not start" in result.out
    assert "cpu     no     the package 'openvino' is not installed" in result.out


def test_home_that_cannot_be_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    monkeypatch.setenv("QEFF_HOME", str(file / "home"))
    result = cli("doctor")
    assert result.code == 1
    assert "NOT WRITABLE" in result.out


def test_default_home_is_said_to_be_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEFF_HOME")
    assert not doctor.examine()["home"]["is_set"]
