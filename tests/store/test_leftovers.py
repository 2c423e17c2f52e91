"""What killed processes leave is removed by the next one, whatever it asks for; what living ones make stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from QEfficient.store import files, leftovers
from QEfficient.store.artifacts import ArtifactStore, write_artifact
from QEfficient.store.files import existing_temporary_home, temporary_home
from QEfficient.store.leftovers import noted, scratch_folder, sweep

PRELUDE = """
import time
from pathlib import Path
from QEfficient.store.artifacts import ArtifactStore, write_artifact
from QEfficient.store.leftovers import scratch_folder
from QEfficient.simulator import sdk

def slow(folder):
    (Path(folder) / "x").write_text("x")
    print("begun", flush=True)
    time.sleep(60)
"""
WORK = {
    "entry": "ArtifactStore().get_or_build('package', {'v': 1}, slow)",
    "folder": "write_artifact('chosen/a', 'package', {'v': 1}, slow)",
    "scratch": "with scratch_folder() as folder: slow(folder)",
    "SDK": "sdk._replace = lambda temporary, root: slow(temporary)\nsdk.install(Path('sdk').absolute())",
}


@pytest.fixture(autouse=True)
def empty_home(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return own_home


@contextmanager
def at_work(kind: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is making something."""
    code = PRELUDE + textwrap.dedent(WORK[kind])
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def temporaries(root: Path) -> list[str]:
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    return [name for name in names if ".tmp-" in name or ".old-" in name or "unfinished/" in name]


def build(folder: Path) -> dict[str, Any]:
    (folder / "x").write_text("y")
    return {}


def ask(key: int = 2) -> None:
    ArtifactStore().get_or_build("package", {"v": key}, build)


NEXT: dict[str, Callable[[], object]] = {
    "a miss": ask,
    "a hit": ask,
    "another folder": lambda: write_artifact("elsewhere", "package", {"v": 3}, build),
    "the same": lambda: ask(1),
}


@pytest.mark.parametrize("follower", NEXT)
@pytest.mark.parametrize("kind", WORK)
def test_the_next_process_removes_it(kind: str, follower: str, tmp_path: Path) -> None:
    if follower == "a hit":
        ask()
    with at_work(kind) as process:
        assert len(temporaries(tmp_path)) > 1
        os.kill(process.pid, signal.SIGKILL)
    NEXT[follower]()
    assert temporaries(tmp_path) == []
    assert not list(tmp_path.rglob("chosen/.*")), "the lock of a folder that somebody chose stays in the way"


@pytest.mark.parametrize("kind", WORK)
def test_what_a_living_process_makes_stays(kind: str, tmp_path: Path) -> None:
    with at_work(kind):
        before = temporaries(tmp_path)
        ask()
        assert temporaries(tmp_path) == before


def test_replaced_package_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement."""
    write_artifact("chosen/a", "package", {"v": 1}, build)
    note = tmp_path / "home" / "unfinished" / ("0" * 12)
    note.parent.mkdir(exist_ok=True)
    note.write_bytes(os.fsencode(tmp_path / "chosen" / "a"))
    note.with_name(f".{note.name}.lock").touch()
    (tmp_path / "chosen" / "a").rename(tmp_path / "chosen" / ".a.old-123")
    ask()
    assert (tmp_path / "chosen" / "a" / "x").read_text() == "y"
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"relative", b"/proc/1/x", b"/nowhere/x", b"a\0b", b"\xff" * 5000])
def test_note_that_leads_nowhere(tmp_path: Path, content: bytes) -> None:
    note = tmp_path / "home" / "unfinished" / ("0" * 12)
    note.parent.mkdir(parents=True)
    note.write_bytes(content)
    note.with_name(f".{note.name}.lock").touch()
    ask()
    assert not note.exists()


def test_files_that_live_for_an_instant(tmp_path: Path) -> None:
    old, young = files.new_file(), files.new_file()
    for path in (old, young):
        path.write_text("x")
    os.utime(old, (0, 0))
    ask()
    assert (old.exists(), young.exists()) == (False, True)


def test_finished_work_leaves_no_note(tmp_path: Path) -> None:
    ask()
    write_artifact("chosen/a", "package", {"v": 1}, build)
    with scratch_folder() as folder:
        (folder / "x").write_text("x")
    with pytest.raises(KeyError), scratch_folder():
        raise KeyError
    assert temporaries(tmp_path) == []
    assert list((tmp_path / "home" / "unfinished").iterdir()) == []


def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    """Then notes and scratch folders are in the temporary folder, and swept there."""
    (tmp_path / "home").write_text("")
    with scratch_folder() as folder:
        assert folder.is_relative_to(tmp_path / "tmp")
        dead = folder.with_name("0" * 12)
        dead.mkdir()
        folder.with_name(f".{dead.name}.lock").touch()
    sweep(lambda folder: None)
    assert not dead.exists()


def test_temporary_folder_of_somebody_else_is_not_swept() -> None:
    folder = temporary_home()
    assert existing_temporary_home() == folder
    folder.chmod(0o777)
    assert existing_temporary_home() is None


def test_sweeping_nothing_is_quick(tmp_path: Path) -> None:
    ask()
    began = time.perf_counter()
    for _ in range(100):
        sweep(lambda folder: None)
    assert time.perf_counter() - began < 0.5


def test_work_goes_on_without_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setattr(leftovers, "temporary_home", lambda: tmp_path / "home" / "x")
    with noted(tmp_path / "a"):
        pass
