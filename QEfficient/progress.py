"""Shows the progress of long stages: a spinner with elapsed time on a terminal, a bar where the work is counted; logs
them elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from QEfficient.output import can_encode, encodable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

logger = logging.getLogger(__name__)

STARTED = (logging.INFO + logging.WARNING) // 2
"""Log level at which a stage that may take minutes says that it starts."""
_DOT = "\N{BRAILLE PATTERN DOTS-124}"
"""Of rich's usual spinner."""
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)
"""The display of the outermost stage."""


@contextmanager
def stage(verb: str, what: str) -> Iterator[None]:
    """Show ``verb what`` while the block runs; log how long it took."""
    with _logged(verb, what), _display(f"{verb} {what}"):
        yield


@contextmanager
def long_stage(verb: str, what: str) -> Iterator[None]:
    """:func:`stage` that may take minutes: also logs that it starts."""
    logger.log(STARTED, "%s %s ...", verb, what)
    with stage(verb, what):
        yield


@contextmanager
def counted(verb: str, what: str, total: int) -> Iterator[Callable[[], None]]:
    """:func:`stage` of ``total`` equal parts; yields what to call after each of them."""
    with _logged(verb, what), _display(f"{verb} {what}", total=total) as update:
        yield lambda: update(advance=1)


@contextmanager
def transferred(verb: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """:func:`long_stage` that moves bytes, if there are any; yields what to call with those that are there and all."""
    with _logged(verb, what), _display(f"{verb} {what}") as update:
        seen: list[int] = []

        def report(done: int, total: int) -> None:
            if not seen:
                logger.log(STARTED, "%s %s ...", verb, what)
            seen[:] = [done]
            update(completed=done, total=total, bytes=f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")

        yield report


@contextmanager
def _logged(verb: str, what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    logger.info("%s %s: %.1f s", verb, what, time.perf_counter() - began)


@contextmanager
def _display(text: str, **options: Any) -> Iterator[Callable[..., None]]:
    """A line of the display; yields what changes it. Without a display where nobody sees it, or wants to."""
    if not sys.stderr.isatty() or not logger.isEnabledFor(logging.WARNING):
        yield lambda **changes: None
        return
    options = {"total": None, "bytes": "", **options}
    shown = _SHOWN.get()
    if shown is not None:  # a stage inside a stage is a line below it
        task = shown.add_task(encodable(text, sys.stderr), **options)
        try:
            yield partial(shown.update, task)
        finally:
            shown.remove_task(task)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(encodable(text, sys.stderr), **options)
        token = _SHOWN.set(progress)
        try:
            yield partial(progress.update, task)
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
    return (spinner, TextColumn("{task.description}"), Bar(), TextColumn("{task.fields[bytes]}"), TimeElapsedColumn())
