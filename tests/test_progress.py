"""What long work shows: nothing in a pipe, one line a stage on a terminal."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.progress import Progress

from QEfficient.progress import counted, stage


def test_a_pipe_gets_nothing_and_the_log_the_time(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with stage("Compiling", "gpt2"):
        pass
    assert capsys.readouterr() == ("", "")
    assert "Compiling gpt2: 0.0 s" in caplog.text


def test_a_stage_inside_a_stage_is_a_line_of_the_same_display(monkeypatch: pytest.MonkeyPatch) -> None:
    displays: list[Progress] = []
    start = Progress.start
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(Progress, "start", lambda self: (displays.append(self), start(self))[1])
    with stage("Compiling", "gpt2"):
        with stage("Running", "qaic-compile"):
            assert [task.description for task in displays[0].tasks] == ["Compiling gpt2", "Running qaic-compile"]
        assert [task.description for task in displays[0].tasks] == ["Compiling gpt2"]
    with stage("Opening", "gpt2"):
        pass
    assert len(displays) == 2


def test_a_counted_stage_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    displays: list[Progress] = []
    start = Progress.start
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(Progress, "start", lambda self: (displays.append(self), start(self))[1])
    with counted("Evaluating", "a text", 4) as advance:
        advance()
        assert [(task.completed, task.total) for task in displays[0].tasks] == [(1, 4)]
        with counted("Reading", "a window", 2) as advance_inner:
            advance_inner()
            assert [task.percentage for task in displays[0].tasks] == [25, 50]


def test_a_terminal_without_dots_gets_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    to = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(to, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", to)
    with stage("Opening", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"):
        pass
    to.flush()
    assert b"caf\\xe9" in to.buffer.getvalue()  # type: ignore[attr-defined]


def test_warnings_have_the_librarys_name_where_no_logging_is_set_up() -> None:
    code = (
        "import logging; from QEfficient.output import name_warnings; name_warnings(); name_warnings();"
        "logging.getLogger('QEfficient.x').warning('num_devices: no effect');"
        "logging.basicConfig(format='%(name)s says %(message)s');"
        "logging.getLogger('QEfficient.x').warning('again')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert shown.splitlines() == ["QEfficient: num_devices: no effect", "QEfficient.x says again"]
