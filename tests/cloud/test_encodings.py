"""Output on a stream that does not have all characters: they are escaped, and nothing fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud.commands import Cli

from QEfficient import from_package
from QEfficient.cloud.terminal import Output, note
from QEfficient.output import encodable

TEXT = "naïve € 東京 🎉"
ENCODINGS = ["ascii", "latin-1", "cp1252"]
SHORT = ("--generation-len", "6")


def stream(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, errors, newline="")


def written(to: io.TextIOWrapper) -> str:
    to.flush()
    buffer = to.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(to.encoding)


def escaped(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_escaped_and_json_stays_json(encoding: str) -> None:
    to = stream(encoding)
    Output(to).write(TEXT)
    Output(to).pairs({TEXT: TEXT})
    Output(to).table([TEXT], [[TEXT]])
    assert set(written(to).split("\n")) == {escaped(TEXT, encoding), escaped(f"{TEXT}  {TEXT}", encoding), ""}
    to = stream(encoding, "replace")
    Output(to).json({"text": TEXT})
    assert json.loads(written(to)) == {"text": TEXT}


def test_a_terminal_of_another_encoding() -> None:
    to = stream("ascii")
    to.isatty = lambda: True  # type: ignore[method-assign]
    Output(to).pairs({"a": TEXT})
    Output(to).table(["a"], [[TEXT]])
    Output(to).json([TEXT])
    assert written(to).count(escaped(TEXT, "ascii")) == 2


def test_what_a_stream_has_is_unchanged() -> None:
    for to in (stream("utf-8"), stream("utf-16"), io.StringIO()):
        assert encodable(TEXT, to) == TEXT
    assert encodable(TEXT, stream("ascii", "replace")) == TEXT, "the caller's rule holds"
    assert encodable("a\ud800", stream("utf-8")) == "a\\ud800"


def test_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream("ascii"))
    note(TEXT)
    assert written(sys.stderr).strip() == escaped(TEXT, "ascii")  # type: ignore[arg-type]


Ascii = Callable[..., str]


@pytest.fixture
def ascii_cli(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Ascii:
    """Runs ``qefficient`` with a stdout in ASCII."""

    def call(*args: str | Path) -> str:
        to = stream("ascii")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", to)
            assert cli(*args).code == 0
        return written(to)

    return call


@pytest.fixture(scope="module")
def answer(package: Path) -> str:
    with from_package(package) as compiled:
        text = compiled.generate(TEXT, generation_len=6).generated_texts[0]
    assert not text.isascii(), "or the test would say little"
    return text


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_an_answer(ascii_cli: Ascii, package: Path, answer: str, flag: str) -> None:
    assert ascii_cli("execute", package, "-p", TEXT, *SHORT, flag) == escaped(answer, "ascii") + "\n"


def test_an_answer_in_json(ascii_cli: Ascii, package: Path, answer: str) -> None:
    (entry,) = json.loads(ascii_cli("execute", package, "-p", TEXT, *SHORT, "--json"))["answers"]
    assert (entry["prompt"], entry["text"]) == (TEXT, answer)


def test_a_chat(ascii_cli: Ascii, package: Path) -> None:
    ask = ("execute", package, "--chat", "-p", TEXT, *SHORT)
    messages = json.loads(ascii_cli(*ask, "--json"))["messages"]
    assert messages[0]["content"] == TEXT
    assert ascii_cli(*ask) == escaped(messages[1]["content"], "ascii") + "\n"


def test_a_line_of_a_chat_in_another_encoding(package: Path) -> None:
    """It is left out; the conversation goes on."""
    command = [sys.executable, "-m", "QEfficient.cloud.execute", str(package), "--chat", "--json", *SHORT]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, input=b"h\xe9\nhello\n", capture_output=True, check=True, env=environment)
    assert b"is not UTF-8, and is left out" in done.stderr
    assert json.loads(done.stdout)["messages"][0]["content"] == "hello"


def test_streaming_in_python(package: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    to = stream("ascii")
    with from_package(package) as compiled, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", to)
        compiled.generate(TEXT, generation_len=6, stream=True)
    assert written(to) == escaped(answer, "ascii") + "\n"
