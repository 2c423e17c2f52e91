"""The live table: on a terminal only, with the time that is left."""

from __future__ import annotations

import io
import sys

import pytest

from QEfficient.finetune.live import LiveTable

LINE = {"loss": 2.5, "learning_rate": 1e-3, "tokens_per_s": 1234.0, "memory_bytes": 3_000_000.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_table(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    live = LiveTable()
    with live.shown():
        for step in (1, 2):
            live.show({"step": step, **LINE}, 10)
        live.show({"step": 2, "eval_loss": 1.5}, 10)
    shown = stream.getvalue()
    if not is_terminal:
        assert shown == ""
        return
    for text in ("2/10", "2.5000", "1.00e-03", "1,234", "3.0 MB", "0:00:00", "1.5000 (validation)"):
        assert text in shown
