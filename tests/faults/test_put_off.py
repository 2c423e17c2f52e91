"""Ctrl-C inside what does not survive it comes at its end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from QEfficient.interrupts import interrupts_put_off

SCRIPT = """
import signal, sys
from QEfficient.interrupts import interrupts_put_off
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
done = []
try:
    with interrupts_put_off():
        signal.raise_signal(signal.SIGINT)
        done.append("end of the block")
    done.append("behind it")
except KeyboardInterrupt:
    done.append("interrupt")
assert done == ["end of the block", "interrupt"], done
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_an_interrupt_comes_at_the_end() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_other_threads_have_no_handlers() -> None:
    ran: list[bool] = []

    def run() -> None:
        with interrupts_put_off():
            ran.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran


def test_an_error_passes() -> None:
    with pytest.raises(ValueError, match="this"), interrupts_put_off():
        raise ValueError("this")
