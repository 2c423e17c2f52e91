"""Processes that answer one question after the other: one that dies or hangs costs its own answer and no other."""

from __future__ import annotations

import multiprocessing
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from queue import Empty, Queue
from tempfile import gettempdir
from typing import Any

Answer = dict[str, Any]
_SECONDS_TO_END = 10.0


def _work(questions: Connection, function: Callable[..., Answer]) -> None:
    """Answer questions until there are no more; an error is an answer too."""
    import torch
    from transformers.utils import logging

    sys.stdout = sys.stderr  # some models print
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    while question := questions.recv():
        try:
            questions.send(function(*question))
        except Exception as error:  # noqa: BLE001 whatever a model raises is an answer
            questions.send({"error": describe(error)})


def describe(error: BaseException) -> str:
    """The error in one line, with the innermost places of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames)
    said = re.sub(rf"{re.escape(gettempdir())}/\S*/", "", " ".join(str(error).split()))
    short = said if len(said) <= 400 else f"{said[:100]} ... {said[-300:]}"
    return f"{type(error).__name__}: {short} @ {where}"


class Worker:
    """A process that calls ``function``, and is replaced when a question kills or hangs it."""

    def __init__(self, function: Callable[..., Answer], timeout_s: float):
        self._function, self._timeout_s = function, timeout_s
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, self._function), daemon=True)
        self._process.start()
        other.close()

    def ask(self, *question: Any) -> Answer:
        """The function's answer, or ``{"error": ...}``."""
        if not self._process.is_alive():
            self._start()
        self._pipe.send(question)
        try:
            if self._pipe.poll(self._timeout_s):
                answer: Answer = self._pipe.recv()
                return answer
        except EOFError:
            self._process.join()
            return {"error": f"the process died with exit code {self._process.exitcode}"}
        self._process.kill()
        self._process.join()
        return {"error": f"no answer in {self._timeout_s:.0f} s"}

    def close(self) -> None:
        """End the process, which may clean up behind itself."""
        if self._process.is_alive():
            self._pipe.send(())
            self._process.join(_SECONDS_TO_END)
        self._process.kill()


def ask_all(
    function: Callable[..., Answer], questions: Sequence[tuple[Any, ...]], num_workers: int, timeout_s: float
) -> Iterator[tuple[tuple[Any, ...], Answer]]:
    """Each question with its answer, as they come."""
    waiting: Queue[tuple[Any, ...]] = Queue()
    answered: Queue[tuple[tuple[Any, ...], Answer]] = Queue()
    for question in questions:
        waiting.put(question)

    def serve() -> None:
        worker = Worker(function, timeout_s)
        while True:
            try:
                question = waiting.get_nowait()
            except Empty:
                return worker.close()
            answered.put((question, worker.ask(*question)))

    for _ in range(min(num_workers, len(questions))):
        threading.Thread(target=serve, daemon=True).start()
    for _ in questions:
        yield answered.get()
