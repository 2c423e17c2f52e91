"""Python functions that native code calls: an interrupt inside one comes out as it is, whatever becomes of it there.

OpenVINO turns each exception of a callback into a RuntimeError, or drops it. Ctrl-C usually is noticed in a
callback, because the interpreter looks for signals only while Python code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")
_INTERRUPTS: ContextVar[list[BaseException] | None] = ContextVar("interrupts", default=None)
"""What callbacks have raised within the current :func:`interruptible`."""


def native_callback(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Decorates a function that native code calls within :func:`interruptible`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        try:
            return function(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit, MemoryError) as error:
            if (interrupts := _INTERRUPTS.get()) is not None:
                interrupts.append(error)
            raise

    return call


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise an interrupt of a callback in place of what the native code raises, or where it raises nothing.

    Raises:
        KeyboardInterrupt, SystemExit, MemoryError: as the callback did.
    """
    interrupts: list[BaseException] = []
    token = _INTERRUPTS.set(interrupts)
    try:
        yield
    except RuntimeError as error:
        # An interrupt before the first or after the last line of a callback is only in the message.
        if not interrupts and KeyboardInterrupt.__name__ in str(error):
            raise KeyboardInterrupt from error
        if not interrupts:
            raise
    finally:
        _INTERRUPTS.reset(token)
    if interrupts:
        raise interrupts[0]
