"""What happens in a chat, with a model that echoes, and at a real terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from QEfficient.cloud import chat
from QEfficient.cloud.chat import COMMANDS, Chat
from QEfficient.cloud.generate_args import Question
from QEfficient.cloud.terminal import Output
from QEfficient.errors import CapacityError
from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics

CTX_LEN = 40
PROMPT_IS_UP = "\x1b[?2004h"
"""A line editor tells the terminal to mark what is pasted."""
COMMAND_HELP = "/exit  "
Said = list[dict[str, str]]


class Echo:
    """A package whose answers repeat the last message, in a context of as many letters as CTX_LEN."""

    path = Path("package")
    engine = SimpleNamespace(session=SimpleNamespace(info=SimpleNamespace(ctx_len=CTX_LEN)))

    def __init__(self) -> None:
        self.seen: list[Said] = []

    def encode_text(self, messages: Said, tokenizer: Any) -> list[list[int]]:
        return [[0] * sum(len(message["content"]) for message in messages)]

    def generate(self, messages: Said, *, tokenizer: Any, stream: Any, **options: Any) -> CloudAI100ExecInfo:
        self.seen.append(messages)
        if len(self.encode_text(messages, tokenizer)[0]) > CTX_LEN:
            raise CapacityError("too long")
        text = messages[-1]["content"]
        if stream:
            stream(text[:4])
        if text.startswith("wait"):
            raise KeyboardInterrupt
        if stream:
            stream(text[4:])
        return CloudAI100ExecInfo(1, [text], [], PerfMetrics(0.5, 8.0, 4.0, 2.0))


Talk = Callable[..., list[Said]]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Runs a chat at a terminal where these turns are typed; returns what the model saw at each."""

    def run(*turns: str, system: str | None = None, generation_len: int | None = None) -> list[Said]:
        echo = Echo()
        question = Question(
            prompts=[],
            chat=True,
            system=system,
            generation_len=generation_len,
            images=[],
            adapters=[],
            stream=True,
            as_json=False,
            sampling={},
        )
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr(chat, "typed_turns", lambda out: iter(turns))
        Chat(Output(sys.stdout), cast("Any", echo), question, None).run()
        return echo.seen

    return run


def contents(messages: Said) -> list[str]:
    return [message["content"] for message in messages]


def test_ctrl_c_ends_the_answer_and_not_the_chat(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    seen = talk("wait for it", "go on")
    assert contents(seen[1]) == ["wait for it", "wait", "go on"]
    printed = capsys.readouterr()
    assert printed.out == "wait\ngo on\n"
    assert "Stopped." in printed.err


def test_a_full_context_drops_the_oldest_turns(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    seen = talk("a" * 8, "b" * 8, "c" * 8, system="S" * 4)
    assert contents(seen[1]) == ["S" * 4, "a" * 8, "a" * 8, "b" * 8]
    assert contents(seen[2]) == ["S" * 4, "b" * 8, "b" * 8, "c" * 8]
    assert capsys.readouterr().err.count("no longer sees the oldest 1 turn.") == 1


def test_room_is_kept_for_an_answer_of_the_length_asked_for(talk: Talk) -> None:
    seen = talk("a" * 4, "b" * 4, generation_len=36)
    assert contents(seen[1]) == ["b" * 4]


def test_a_turn_that_does_not_fit_alone_is_forgotten(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    seen = talk("a" * 41, "b")
    assert contents(seen[-1]) == ["b"]
    assert "error: too long" in capsys.readouterr().err


def test_an_unknown_command_is_not_sent(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk("/hlep", "/clera now") == []
    errors = capsys.readouterr().err
    assert "no command '/hlep'. Did you mean '/help'?" in errors
    assert "Did you mean '/clear'?" in errors


@pytest.mark.parametrize("turn", ["/etc/passwd, what is it?", " /help"])
def test_other_slashes_are_messages(turn: str, talk: Talk) -> None:
    assert contents(talk(turn)[0]) == [turn.strip()]


def test_system_prompt_can_change(talk: Talk) -> None:
    seen = talk("/system Be brief.", "a", "/system", "b", "/clear", "c")
    assert [contents(messages) for messages in seen] == [["Be brief.", "a"], ["a", "a", "b"], ["c"]]


def test_retry_answers_the_last_turn_again(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    seen = talk("/retry", "a", "b", "/retry")
    assert contents(seen[2]) == contents(seen[1]) == ["a", "a", "b"]
    assert "no turn to answer again" in capsys.readouterr().err


def test_save_writes_the_conversation(talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "said.json"
    talk("hé", "/save", f"/save {file}", f"/save {tmp_path / 'no' / 'folder'}", system="S")
    assert contents(json.loads(file.read_text(encoding="utf-8"))) == ["S", "hé", "hé"]
    errors = capsys.readouterr().err
    assert "/save needs the name of a file" in errors
    assert "cannot be written" in errors


def test_stats_and_help(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    talk("abc", "/stats", "/help")
    errors = capsys.readouterr().err
    assert errors.count("decode 8.0 tokens/s") == 2
    assert "1 turn, 6 of 40 tokens of the context." in errors
    assert all(command in errors for command in COMMANDS)


def test_at_a_terminal(package: Path, tmp_path: Path) -> None:
    """Typing goes through line editing, and what was typed is kept for the next chat."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "QEfficient.cloud.execute", str(package), "--chat", "--generation-len", "3"]
    environment = os.environ | {"QEFF_HOME": str(tmp_path), "TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        _read_until(ours, PROMPT_IS_UP)
        os.write(ours, b"/hel\x7fl\x7flp\r")
        shown = _read_until(ours, COMMAND_HELP, PROMPT_IS_UP)
        os.write(ours, b"\x03")
        _read_until(ours, "ends the chat.", PROMPT_IS_UP)
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    os.close(ours)
    assert "set the system prompt" in shown
    assert "/help" in (tmp_path / "chat_history").read_text(encoding="utf-8")


def _read_until(terminal: int, *texts: str) -> str:
    """What is shown until these texts have been, one after the other."""
    shown, at, ends = "", 0, time.monotonic() + 60
    for text in texts:
        while (place := shown.find(text, at)) < 0:
            ready, _, _ = select.select([terminal], [], [], max(ends - time.monotonic(), 0))
            assert ready, f"{text!r} was not shown, but {shown!r}"
            shown += os.read(terminal, 4096).decode(errors="replace")
        at = place + len(text)
    return shown
