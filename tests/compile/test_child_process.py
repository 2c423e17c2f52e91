"""Running a compiler: nothing outlives it, everything it says is kept, and a failure says what to do."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fake_sdk
import pytest

from QEfficient.compile import child_process
from QEfficient.compile.child_process import run_compiler
from QEfficient.errors import CompileError

FAMILY = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}")
print("begun", flush=True)
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))


def run(code: str, *arguments: str, advice: tuple[tuple[str, str], ...] = ()) -> None:
    program = fake_sdk.script(Path.cwd() / "compiler", code)
    run_compiler([str(program), *arguments], log=Path("log"), output=Path("out"), advice=advice)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_gone(pids: list[int]) -> None:
    until = time.monotonic() + 5
    while any(map(is_alive, pids)):
        assert time.monotonic() < until, f"{pids} are still there"
        time.sleep(0.02)


def family() -> list[int]:
    until = time.monotonic() + 10
    while not Path("pids").exists() or len(Path("pids").read_text().split()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    return [int(pid) for pid in Path("pids").read_text().split()]


def test_success_keeps_all_it_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(
        "import sys\nopen('out', 'w').write('x')\nprint('one', flush=True)\n"
        "print('two', file=sys.stderr, flush=True)\nprint(sys.argv[1])",
        "a b",
    )
    assert Path("log").read_text().splitlines() == [f"$ {Path.cwd()}/compiler 'a b'", "one", "two", "a b"]
    assert " s  one" in caplog.text
    assert not Path("home", "logs").exists()


def test_arguments_are_not_for_a_shell() -> None:
    run("import sys\nopen('out', 'w').write(sys.argv[1])", "$(touch hacked); 'x")
    assert Path("out").read_text() == "$(touch hacked); 'x"
    assert not Path("hacked").exists()


def test_lines_come_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="QEfficient.compile.child_process")
    run("import time\nprint('early', flush=True)\ntime.sleep(0.5)\nopen('out', 'w').write('x')\nprint('late')")
    times = {record.args[1]: record.created for record in caplog.records if len(record.args or ()) == 2}  # type: ignore[index, misc]
    assert times["late"] - times["early"] > 0.3


def test_failure_says_command_status_tail_and_where_the_log_is() -> None:
    with pytest.raises(CompileError) as caught:
        run("import sys\nfor i in range(30): print('line', i)\nsys.exit(7)", "-m=a b.onnx")
    text = str(caught.value)
    assert text.startswith("compiler failed with exit status 7.\n")
    assert f"{Path.cwd()}/compiler '-m=a b.onnx'" in text
    assert "line 29" in text
    assert "line 10\n" in text
    assert "line 9\n" not in text
    (kept,) = Path("home", "logs").iterdir()
    assert str(kept) in text
    assert kept.read_text() == Path("log").read_text()


def test_a_compiler_that_writes_nothing_has_failed() -> None:
    with pytest.raises(CompileError, match=r"ended well, and wrote no out\.\n(.|\n)*\(nothing\)"):
        run("pass")


def test_signals_have_names_and_nine_means_memory() -> None:
    with pytest.raises(CompileError, match=r"killed by signal 11 \(SIGSEGV\)\.\n"):
        run("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(CompileError, match=r"killed by signal 9 \(SIGKILL\)\..*Memory ran out"):
        run("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(CompileError, match=r"exit status 137\..*Memory ran out"):
        run("import sys; sys.exit(137)")


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", "Memory ran out"),
        ("unknown frobnication of x7", "the x7 needs oil"),
    ],
)
def test_known_messages_are_explained(said: str, advised: str) -> None:
    with pytest.raises(CompileError, match=advised):
        run(f"print({said!r}); raise SystemExit(1)", advice=((r"frobnication of (\w+)", r"the \1 needs oil"),))


def test_what_the_command_says_is_no_message() -> None:
    with pytest.raises(CompileError) as caught:
        run("raise SystemExit(1)", "out of memory")
    assert "Memory ran out" not in str(caught.value)


def test_a_compiler_that_does_not_start() -> None:
    with pytest.raises(CompileError, match="nowhere does not start: No such file"):
        run_compiler(["./nowhere"], log=Path("log"), output=Path("out"))


def test_only_the_newest_logs_are_kept() -> None:
    for _ in range(22):
        with pytest.raises(CompileError, match="exit status 1"):
            run("raise SystemExit(1)")
    assert len(list(Path("home", "logs").iterdir())) == 20


def test_what_a_failed_compiler_leaves_behind_is_killed() -> None:
    with pytest.raises(CompileError, match="exit status 3"):
        run(f"{FAMILY}\nsys.exit(3)")
    assert_gone(family())


def test_an_exception_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def follow(*args: object) -> bytes:
        if family():
            raise Stop
        return b""

    monkeypatch.setattr(child_process, "_follow", follow)
    with pytest.raises(Stop):
        run(f"{FAMILY}\ntime.sleep(60)")
    assert_gone(family())


PARENTS = {
    "alone": "compile()",
    "in a thread": "threading.Thread(target=compile).start()\ntime.sleep(60)",
    "beside a fork": """
threading.Thread(target=compile).start()
while not Path("pids").exists():
    time.sleep(0.02)
if not os.fork():
    Path("fork").write_text(str(os.getpid()))
time.sleep(60)
""",
}


def start_parent(kind: str = "alone", **options: Any) -> subprocess.Popen[bytes]:
    """A process that runs a slow compiler, which has a child."""
    program = fake_sdk.script(Path.cwd() / "compiler", f"{FAMILY}\ntime.sleep(60)")
    code = textwrap.dedent(f"""
        import os, signal, threading, time
        from pathlib import Path
        from QEfficient.compile.child_process import run_compiler
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's children inherit that it is ignored
        def compile():
            run_compiler([{str(program)!r}], log=Path("log"), output=Path("out"))
    """)
    return subprocess.Popen([sys.executable, "-c", code + PARENTS[kind]], start_new_session=True, **options)


@pytest.mark.parametrize("kind", PARENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_outlives_this_one(kind: str, number: signal.Signals) -> None:
    """A fork of it does; the compiler does not, nor the compiler's children."""
    parent = start_parent(kind)
    pids = family()
    fork = Path("fork")
    while kind == "beside a fork" and not (fork.exists() and fork.read_text()):
        time.sleep(0.02)
    try:
        os.kill(parent.pid, number)
        assert parent.wait(10) == -number
        assert_gone(pids)
        assert not fork.exists() or is_alive(int(fork.read_text()))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_nor_when_its_group_is_killed() -> None:
    parent = start_parent()
    pids = family()
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait(10)
    assert_gone(pids)


def test_guard_ends_with_the_compiler() -> None:
    run("import os\nopen('out', 'w').write(str(os.getpgrp()))")
    with pytest.raises(ProcessLookupError):
        os.killpg(int(Path("out").read_text()), 0)


def test_without_a_shell_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_GUARD", ("./nowhere",))
    with pytest.raises(CompileError, match="nowhere"):
        run("open('out', 'w').write('x')")
    assert not Path("out").exists()


def test_ctrl_c_leaves_no_process() -> None:
    # Where the tests run in the background of a shell, they inherit that Ctrl-C is ignored.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    parent = start_parent(stderr=subprocess.PIPE, preexec_fn=heed)
    try:
        pids = family()
        assert all(map(is_alive, pids))
        os.kill(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=10)
    finally:
        parent.kill()
    assert b"KeyboardInterrupt" in said
    assert_gone(pids)
