"""A table of the latest steps, on a terminal, while a run goes on; nothing in piped output."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from QEfficient.store.files import readable_bytes

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_NUM_ROWS = 8


class LiveTable:
    """Rows of the latest steps, with the time that is left."""

    def __init__(self) -> None:
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_NUM_ROWS)
        self._began: tuple[float, int] | None = None
        """When the first line came, and of which step it was."""
        self._display: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table on stderr while the block runs, if that is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), transient=True, redirect_stdout=False) as self._display:
            yield
        self._display = None

    def show(self, line: Mapping[str, float], num_steps: int) -> None:
        """Add a line of metrics.

        Args:
            line: as in ``metrics.jsonl``.
            num_steps: of the whole run.
        """
        now, step = time.perf_counter(), int(line["step"])
        began, first = self._began = self._began or (now, step)
        left = (now - began) / (step - first) * (num_steps - step) if step > first else None
        if self._display is None:
            return
        if "eval_loss" in line:
            cells = (f"{line['eval_loss']:.4f} (validation)", "", "", "")
        else:
            memory = readable_bytes(int(line["memory_bytes"]))
            cells = (f"{line['loss']:.4f}", f"{line['learning_rate']:.2e}", f"{line['tokens_per_s']:,.0f}", memory)
        self._rows.append((f"{step}/{num_steps}", *cells, "" if left is None else _readable_time(left)))
        self._display.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table

        table = Table("Step", "Loss", "Learning rate", "Tokens/s", "Memory", "Left", box=box.SIMPLE_HEAD)
        for row in self._rows:
            table.add_row(*row)
        return table


def _readable_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
