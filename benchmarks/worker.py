"""A process for each system: its memory and its thread pools are its own, and it stays loaded between requests."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerFailed(RuntimeError):
    """A worker's process ended, or did not answer in time. The message is the end of its log."""


class Worker:
    """An object in a process of its own, whose methods can be called from here, one at a time.

    Args:
        maker: ``"module:name"`` of what makes the object; called with ``arguments``.
        arguments: must survive pickling.
        log: file for whatever the process prints.
        num_threads: told to every library that reads it from the environment.
    """

    def __init__(self, maker: str, arguments: Mapping[str, Any], log: Path, num_threads: int, timeout_s: float = 3600):
        context = multiprocessing.get_context("spawn")
        self._log, self._timeout_s = log, timeout_s
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, maker, dict(arguments), log, num_threads), daemon=True
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns.

        Raises:
            WorkerFailed: the method raised, or the process died; it cannot be called again.
        """
        self._pipe.send((method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            if self._pipe.poll(self._timeout_s):
                return self._pipe.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerFailed(f"{self._cause()} (see {self._log})") from error
        self.close()
        raise WorkerFailed(f"no answer within {self._timeout_s:.0f} s (see {self._log})")

    def _cause(self) -> str:
        code = self._process.exitcode
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else last_line(self._log)

    def peak_memory_bytes(self) -> int:
        """The most memory that the process has held, mapped files included."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def last_line(log: Path) -> str:
    """The last line of a log that says something: of a traceback, the error."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "the process ended and said nothing")


def _serve(pipe: Connection, maker: str, arguments: dict[str, Any], log: Path, num_threads: int) -> None:
    """The worker's side. An error ends the process and is in its log, which is what the other side reads."""
    _print_into(log)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(num_threads)))
    module, name = maker.split(":")
    made = getattr(importlib.import_module(module), name)(**arguments)
    pipe.send(None)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(made, method)(*given))


def _print_into(log: Path) -> None:
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
