"""Paths that no file can have, and folders that cannot be written: typed errors at once, or another folder."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from QEfficient.errors import ArtifactError, OptionError, QEffError, StorageError
from QEfficient.generation.package import from_package
from QEfficient.generation.programs.qaic import timeout_ms
from QEfficient.generation.prompts import read_prompts
from QEfficient.simulator.sdk import install
from QEfficient.store import files
from QEfficient.store.artifacts import ArtifactStore, write_artifact
from QEfficient.store.files import home, user_path
from QEfficient.store.locks import hold, hold_if_free
from QEfficient.targets import choose_target

IMPOSSIBLE = ["a\0b", "a\ud800b", "~no-such-user-here/x", "x" * 300, "x/" + "y" * 240]


def build(folder: Path) -> dict[str, Any]:
    (folder / "x").write_text("x")
    return {}


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("was built")


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_folder_to_write_to(tmp_path: Path, name: str) -> None:
    path = name if name.startswith("~") else f"{tmp_path}/{name}"
    with pytest.raises(StorageError):
        write_artifact(path, "package", {"v": 1}, never)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_package_to_read(tmp_path: Path, name: str) -> None:
    with pytest.raises((StorageError, ArtifactError)):
        from_package(name)
    with pytest.raises(OptionError):
        from_package(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_file_of_prompts(name: str) -> None:
    with pytest.raises(OptionError):
        read_prompts(None, name)


def test_file_of_prompts_that_is_not_utf8(tmp_path: Path) -> None:
    contents = {
        b"a\ncaf\xe9\n": "line 2 is not UTF-8",
        b"\xef\xbb\xbfcaf\xe9": "line 1 is not UTF-8",
        b"\xff\xfea": "line 1 is not UTF-16",
        "é".encode("utf-16-le") + b"\n": "line 1 is not UTF-8",
        "a\nb".encode("utf-16-le"): "line 1 has a zero",
        "a".encode("utf-32"): "line 1 has a zero",
    }
    for content, says in contents.items():
        (tmp_path / "prompts").write_bytes(content)
        with pytest.raises(OptionError, match=rf"prompts cannot be read: .*{says}.*Save it as UTF-8"):
            read_prompts(None, tmp_path / "prompts")
    for content in (b"", b"\xff\xfe", b" \n\r\n"):
        (tmp_path / "prompts").write_bytes(content)
        with pytest.raises(OptionError, match="prompts has no prompt"):
            read_prompts(None, tmp_path / "prompts")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_file_of_prompts_has_one_a_line(tmp_path: Path, encoding: str, end: str) -> None:
    """Characters that Python takes for the end of a line are part of a prompt."""
    prompts = ["a\u2028b\u2029c", " d\x0be\x0cf ", "g\x85h\x1ci", "j\rk", "東京"]
    (tmp_path / "prompts").write_bytes((end.join([*prompts, "", "  "]) + end).encode(encoding))
    assert read_prompts(None, tmp_path / "prompts") == prompts


@pytest.mark.parametrize("value", ["~no-such-user-here/x", "a\udcffb"])
def test_home_that_cannot_be(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QEFF_HOME", value)
    with pytest.raises(StorageError, match="QEFF_HOME"):
        home()


def test_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(StorageError):
        user_path("x")


@pytest.mark.parametrize("kind", ["a file", "a dangling link", "in a file", "a loop"])
def test_store_that_is_no_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    root = {"a file": "file", "a dangling link": "link", "in a file": "file/x", "a loop": "loop"}[kind]
    with pytest.raises(StorageError):
        ArtifactStore(tmp_path / root).get_or_build("package", {"v": 1}, never)


def test_kind_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "package").write_text("")
    with pytest.raises(StorageError):
        ArtifactStore(tmp_path).get_or_build("package", {"v": 1}, never)


@pytest.mark.parametrize("kind", ["folder", "link"])
@pytest.mark.parametrize("take", [hold, hold_if_free])
def test_lock_that_is_no_file(tmp_path: Path, kind: str, take: Any) -> None:
    if kind == "folder":
        (tmp_path / ".x.lock").mkdir()
    else:
        (tmp_path / ".x.lock").symlink_to(tmp_path / "target")
    with pytest.raises(StorageError), take(tmp_path / "x"):
        pass
    assert not (tmp_path / "target").exists()


@pytest.mark.timeout(20)
def test_lock_that_cannot_be_created_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_artifact("/proc/x", "package", {"v": 1}, never)
    with pytest.raises(StorageError), hold(tmp_path / "gone" / "x"):
        pass


def test_simulated_sdk_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        install(tmp_path / "file" / "sdk")
    with pytest.raises(StorageError):
        install(Path("~no-such-user-here"))


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", "9" * 5000, "²"])
def test_timeout_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("QEFF_DATA_PATH_TIMEOUT_MS", text)
    with pytest.raises(OptionError, match="QEFF_DATA_PATH_TIMEOUT_MS"):
        timeout_ms()


@pytest.mark.parametrize("value", ["~no-such-user-here/x", "x" * 300])
@pytest.mark.parametrize("variable", ["QEFF_QAIC_SDK", "QEFF_TARGET"])
def test_environment_that_names_nothing(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(QEffError):
        choose_target("cloud-ai-100" if variable == "QEFF_QAIC_SDK" else None)


def test_store_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A miss is built in a temporary folder, with a warning; the next one is found there."""
    store = read_only(tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING):
        artifact, built = store.get_or_build("package", {"v": 1}, build)
    assert built
    assert artifact.path.is_relative_to(tmp_path / "tmp")
    assert "the store cannot be written" in caplog.text
    assert store.get_or_build("package", {"v": 1}, never) == (artifact, False)
    folder = tmp_path / "tmp" / f"qefficient-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_temporary_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = read_only(tmp_path, monkeypatch)
    folder = tmp_path / "tmp" / f"qefficient-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StorageError, match="this user alone"):
        store.get_or_build("package", {"v": 1}, never)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(StorageError, match="this user alone"):
        store.get_or_build("package", {"v": 1}, never)


def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    store, make = ArtifactStore(tmp_path / "store"), files.make_private

    def refuse(folder: Path) -> None:
        if folder.is_relative_to(store.root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        make(folder)

    monkeypatch.setattr("QEfficient.store.artifacts.make_private", refuse)
    return store
