"""The command as a whole: help, speed, errors, exit codes, what goes where."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from cloud.commands import Cli, imported, run_python

from QEfficient.cloud import doctor
from QEfficient.cloud.app import COMMANDS
from QEfficient.errors import CapacityError, OptionError
from QEfficient.version import __version__

HEAVY = ("torch", "transformers", "openvino", "onnx", "numpy", "rich")


def test_help_lists_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert (result.code, result.err) == (0, "")
    for name, summary in COMMANDS.items():
        assert f"  {name}" in result.out
        assert summary in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_command_says_what_the_list_says(name: str) -> None:
    command = import_module(f"QEfficient.cloud.{name}").command
    assert command.name == name
    assert command.help.splitlines()[0] == COMMANDS[name]


def test_help_comes_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_python("-m", "QEfficient.cloud.app", "--help").code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, since other work on the machine has no part in it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    result, found = imported(HEAVY, *args)
    assert (result.code, found) == (0, [])
    assert result.out.startswith("Usage: qefficient ")


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"qefficient {__version__}\n"


def test_nothing_asked_shows_the_help(cli: Cli) -> None:
    result = cli()
    assert (result.code, result.out) == (2, "")
    assert "Commands:" in result.err


def test_misspelt_command(cli: Cli) -> None:
    result = cli("infr")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[0] == "error: There is no command 'infr'. Did you mean 'infer'?"


@pytest.mark.parametrize("spelling", ["--ctx-lenn", "--ctx_lenn"])
def test_misspelt_flag(cli: Cli, spelling: str) -> None:
    result = cli("compile", "some/card", spelling, "64")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "error: There is no option '--ctx-lenn'. Did you mean '--ctx-len'?",
        "See 'qefficient compile --help'.",
    ]


@pytest.mark.parametrize(("error", "code"), [(OptionError("no good"), 2), (CapacityError("no room"), 1)])
def test_error_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    monkeypatch.setattr(doctor, "examine", raising(error))
    result = cli("doctor")
    assert (result.code, result.out, result.err) == (code, "", f"error: {error}\n")


def test_verbose_shows_where_an_error_comes_from(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", raising(CapacityError("no room")))
    result = cli("doctor", "-v")
    assert result.code == 1
    assert result.err.startswith("Traceback")
    assert result.err.endswith("\nerror: no room\n")


def test_ctrl_c(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", raising(KeyboardInterrupt()))
    result = cli("doctor")
    assert (result.code, result.out) == (130, "")
    assert result.err.strip() == "Interrupted."


def test_ctrl_c_in_a_chat_that_waits(package: Path) -> None:
    command = [sys.executable, "-m", "QEfficient.cloud.execute", str(package), "--chat"]
    pipe = subprocess.PIPE
    # Where the tests run in the background of a shell, they inherit that Ctrl-C is ignored.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stderr.readline().startswith("[prefill")  # it has answered and waits for the next turn
        interrupt(process)
        error = process.stderr.read()
    assert process.returncode == 130
    assert error.strip() == "Interrupted."


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, until it ends: Python misses one that comes just before it begins to wait for input."""
    for _ in range(10):
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def test_reader_that_has_seen_enough() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "QEfficient.cloud.doctor", "--json"]
    found = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (found.returncode, found.stderr) == (1, "")


def test_what_libraries_print_stays_out_of_the_result(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty() -> dict[str, object]:
        print("Hello from a library")
        return found

    found = doctor.examine()
    monkeypatch.setattr(doctor, "examine", chatty)
    result = cli("doctor", "--json")
    assert result.json == found
    assert result.err == "Hello from a library\n"


def test_verbose_is_for_this_library_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def logging_examine() -> dict[str, object]:
        logging.getLogger("QEfficient.base").info("ours")
        logging.getLogger("somebody.else").info("theirs")
        return found

    found = doctor.examine()
    monkeypatch.setattr(doctor, "examine", logging_examine)
    assert cli("doctor", "--json").err == ""
    assert cli("doctor", "--json", "-v").err == "info: ours\n"


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("WARNING", False)])
def test_level_of_the_environment(
    level: str, shown: bool, cli: Cli, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEFF_LOG_LEVEL", level)
    result = cli("execute", package, "-p", "hello", "--generation-len", "1")
    assert result.code == 0
    assert ("info: Opening" in result.err) == shown


def test_level_that_is_none(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_LOG_LEVEL", "loud")
    result = cli("doctor")
    assert (result.code, result.err) == (2, "error: QEFF_LOG_LEVEL must be debug, info, warning, error, got 'loud'.\n")
