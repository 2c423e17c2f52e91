"""kill -9 at any moment of a run: what is on the disk afterwards is enough to go on as if it had not happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from finetune.files import Write
from finetune.runs import LORA, ROWS, SHORT, assert_same_weights, losses

from QEfficient.finetune.checkpoints import list_checkpoints, newest_complete

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)

NUM_KILLS = 40
NUM_STEPS = 12
OPTIONS = {**SHORT, **LORA, "max_train_step": NUM_STEPS, "intermediate_step_save": 1, "resume": True}
WORKER = """
import json, os, sys
import trl, peft, torch
from QEfficient.finetune.run import finetune

torch.set_num_threads(1)
while line := sys.stdin.readline():
    child = os.fork()  # importing takes seconds, which a fork saves
    if child == 0:
        finetune(**json.loads(line))
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()  # until then, its number is of no other process
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Worker:
    """Runs ``finetune``, each time in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def run(self, options: dict[str, Any], kill_after: float | None = None) -> int:
        """The exit code; that of a signal is negative.

        Args:
            options: of ``finetune``.
            kill_after: seconds from the start.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(options), file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def worker() -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


@pytest.mark.sweep
def test_killed_at_any_moment(base: Path, write: Write, tmp_path: Path) -> None:
    """A checkpoint is written after each step, so that many kills come while one is."""
    options = {**OPTIONS, "pretrained_model_name_or_path": str(base), "dataset": str(write(ROWS))}
    whole, killed = (
        {**options, "output_dir": str(tmp_path / "whole")},
        {**options, "output_dir": str(tmp_path / "killed")},
    )
    moments, num_torn, num_finished = random.Random(0), 0, 0
    with worker() as runs:
        assert runs.run({**whole, "output_dir": str(tmp_path / "first")}) == 0  # the worker has imported by then
        began = time.perf_counter()
        assert runs.run(whole) == 0
        duration = time.perf_counter() - began
        for _ in range(NUM_KILLS):
            code = runs.run(killed, kill_after=moments.uniform(0.0, duration))
            num_torn += check_left(tmp_path / "killed")
            if code == 0:
                num_finished += check_finished(tmp_path / "killed", tmp_path / "whole")
        assert runs.run(killed) == 0
    num_finished += check_finished(tmp_path / "killed", tmp_path / "whole")
    assert num_torn > 0, "no kill came while a checkpoint was written: this run shows nothing"
    assert num_finished > 0


def check_left(output_dir: Path) -> bool:
    """Whether a checkpoint is torn; one that is complete is among the newest two."""
    checkpoints = list_checkpoints(output_dir)
    newest = newest_complete(output_dir)
    if len(checkpoints) > 1:
        assert newest is not None
        assert newest.path in checkpoints[:2]
    return bool(checkpoints) and (newest is None or newest.path != checkpoints[0])


def check_finished(output_dir: Path, whole: Path) -> bool:
    """The result is that of the run that was not killed. Makes room for another."""
    assert losses(output_dir) == losses(whole)
    assert_same_weights(output_dir, whole)
    rmtree(output_dir)
    return True
