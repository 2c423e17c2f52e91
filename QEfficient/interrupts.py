"""Ctrl-C, put off while something runs that does not survive it, and kept from ending the process afterwards."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Raise an interrupt at the end of the block, instead of inside it. Handlers belong to the main thread: elsewhere,
    and where a handler is not Python's, nothing is put off."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    put_off: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: put_off.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if put_off:
            signal.raise_signal(signal.SIGINT)


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux's <signal.h>."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread the alternate stack for signals back that it has before the block.

    OpenVINO's plugin for processors sets one and unmaps it when its core is freed. Of two cores, freed in the order in
    which they were made, the second puts the stack of the first back: the next signal that Python handles, such as
    Ctrl-C, ends the process with SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
