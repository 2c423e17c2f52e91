"""Shows the progress of long stages: a spinner with elapsed time on a terminal, a bar where the work is counted,
nothing in piped output."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from QEfficient.output import can_encode, encodable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

logger = logging.getLogger(__name__)

_DOT = "\N{BRAILLE PATTERN DOTS-124}"
"""Of rich's usual spinner."""
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
"""The display of the outermost stage."""


@contextmanager
def stage(verb: str, what: str) -> Iterator[None]:
    """Show ``verb what`` while the block runs; log how long it took."""
    with counted(verb, what, None):
        yield


@contextmanager
def counted(verb: str, what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """:func:`stage` of ``total`` equal parts; yields what to call after each of them."""
    began = time.perf_counter()
    with _display(f"{verb} {what}", total) as advance:
        yield advance
    logger.info("%s %s: %.1f s", verb, what, time.perf_counter() - began)


@contextmanager
def _display(text: str, total: int | None) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    shown = _SHOWN.get()
    if shown is not None:  # a stage inside a stage is a line below it
        task = shown.add_task(encodable(text, sys.stderr), total=total)
        try:
            yield lambda: shown.advance(task)
        finally:
            shown.remove_task(task)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(encodable(text, sys.stderr), total=total)
        token = _SHOWN.set(progress)
        try:
            yield lambda: progress.advance(task)
        finally:
            _SHOWN.reset(token)


def _columns() -> tuple[ProgressColumn, ...]:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Bar(BarColumn):
        """A bar where the parts are counted."""

        def render(self, task: Task) -> Any:
            """What stands in the column."""
            return Text() if task.total is None else super().render(task)

    spinner = SpinnerColumn("dots" if can_encode(_DOT, sys.stderr) else "line")
    return (spinner, TextColumn("{task.description}"), Bar(), TimeElapsedColumn())
