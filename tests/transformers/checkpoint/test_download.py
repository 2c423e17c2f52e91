"""What is shown while a checkpoint comes from the Hub, and that it comes whole."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from hub_server import hub

LOAD = "from QEfficient import QEFFAutoModelForCausalLM as C; print(C.from_pretrained('tiny/model').model_name)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub")
    tiny_models.save(tiny_models.causal_lm("llama", hidden_size=256, intermediate_size=1024), made)
    return made


def environment(address: str, home: Path) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "TERM": "xterm"}


def test_a_terminal_gets_one_bar(folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with (
        hub(folder, seconds=0.02) as address,
        subprocess.Popen(
            [sys.executable, "-c", LOAD], stdout=subprocess.PIPE, stderr=theirs, env=environment(address, tmp_path)
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        while piece := _read(ours):
            shown += piece
        assert process.stdout is not None
        assert process.stdout.read() == b"LlamaForCausalLM\n"
    os.close(ours)
    assert b"Downloading tiny/model" in shown
    assert b" MB" in shown
    assert b"it/s" not in shown
    assert b"Fetching" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def test_a_pipe_gets_a_line_when_it_starts_and_none_where_nothing_is_missing(folder: Path, tmp_path: Path) -> None:
    code = f"import logging; logging.basicConfig(level=25, format='%(message)s'); {LOAD}"
    with hub(folder) as address:
        runs = [
            subprocess.run(
                [sys.executable, "-c", code], env=environment(address, tmp_path), capture_output=True, text=True
            )
            for _ in range(2)
        ]
    assert [run.stdout for run in runs] == ["LlamaForCausalLM\n"] * 2
    assert [run.stderr.count("Downloading tiny/model ...") for run in runs] == [1, 0]
