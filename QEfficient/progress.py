"""Shows the progress of long stages: a spinner with elapsed time on a terminal, nothing in piped output."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from QEfficient.output import can_encode, encodable

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

_DOT = "\N{BRAILLE PATTERN DOTS-124}"
"""Of rich's usual spinner."""
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
"""The display of the outermost stage."""


@contextmanager
def stage(verb: str, what: str) -> Iterator[None]:
    """Show ``verb what`` while the block runs; log how long it took."""
    began = time.perf_counter()
    with _display(f"{verb} {what}"):
        yield
    logger.info("%s %s: %.1f s", verb, what, time.perf_counter() - began)


@contextmanager
def _display(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    shown = _SHOWN.get()
    if shown is not None:  # a stage inside a stage is a line below it
        task = shown.add_task(encodable(text, sys.stderr), total=None)
        try:
            yield
        finally:
            shown.remove_task(task)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    spinner = SpinnerColumn("dots" if can_encode(_DOT, sys.stderr) else "line")
    columns = (spinner, TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(encodable(text, sys.stderr), total=None)
        token = _SHOWN.set(progress)
        try:
            yield
        finally:
            _SHOWN.reset(token)
