"""Killed at any moment, exporting and compiling leave nothing wrong: the next run answers right, nothing lies about,
no process goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import quantized_models
import tiny_models

from QEfficient.store.files import SHORT_LIVED

pytestmark = pytest.mark.xdist_group("kills")

KINDS = (
    ("compile", "cpu"), ("export", "cpu"), ("compile", "cpu"), ("compile", "cloud-ai-100-sim"), ("export", "cpu"),
    ("compile", "cpu"), ("export", "cpu"), ("compile", "cloud-ai-100-sim"), ("export", "cpu"), ("compile", "cpu"),
    ("export", "cloud-ai-100-sim"),
)  # fmt: skip
"""What the rounds do, in turn; the simulator's compiler, a process that starts anew, takes the most time."""
MARK = "QEFF_TEST_ROUND"


@dataclass
class Template:
    """The process that forks the workers."""

    process: subprocess.Popen[str]
    expected: list[int] = field(default_factory=list)
    """Hugging Face's answer."""

    @classmethod
    @contextmanager
    def started(cls, checkpoint: Path, dense: Path) -> Iterator[Template]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, "-m", "faults.kill_template", str(checkpoint), str(dense)]
        tests = Path(__file__).parents[1]
        paths = os.pathsep.join([str(tests), str(tests.parent)])
        environment = {**os.environ, **threads, "PYTHONPATH": paths}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                template = cls(process)
                template.expected = json.loads(template._line())
                tasks = os.listdir(f"/proc/{process.pid}/task")
                assert len(tasks) == 1, "a fork would lose the other threads"
                yield template
            finally:
                process.kill()

    def start(self, job: dict[str, Any]) -> int:
        self._write(json.dumps(job))
        return int(self._line())

    def reap(self) -> int:
        """Wait for the worker, and return its status."""
        self._write("reap")
        return int(self._line())

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@dataclass
class Rounds:
    """Rounds in folders of their own."""

    template: Template
    root: Path
    random: random.Random
    num_hit: int = 0
    durations: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that the newest undisturbed work took."""

    def run(self, number: int) -> None:
        stage, target = kind = KINDS[number % len(KINDS)]
        folder = self.root / str(number)
        (folder / "tmp").mkdir(parents=True)
        name = f"{MARK}={os.getpid()}-{number}"
        job: dict[str, Any] = {
            "stage": stage,
            "target": target,
            "folder": str(folder / "chosen" / "x") if self.random.random() < 0.5 else None,
            "answers": None,
            "environment": {
                "QEFF_HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), MARK: name.partition("=")[2],
            },
        }  # fmt: skip
        self._kill(job, self.random.uniform(0, self.durations.get(kind, 1.0)))
        check_gone(name)
        self.durations[kind] = self._undisturbed({**job, "answers": str(folder / "answers")})
        check_gone(name)
        assert leftovers(folder) == [], f"round {number}: {job}"
        shutil.rmtree(folder)

    def _kill(self, job: dict[str, Any], seconds: float) -> None:
        pid = self.template.start(job)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            (os.killpg if self.random.random() < 0.5 else os.kill)(pid, signal.SIGKILL)
        self.num_hit += os.WIFSIGNALED(self.template.reap())

    def _undisturbed(self, job: dict[str, Any]) -> float:
        """Run to the end and answer; returns the seconds without the answer."""
        exported = None
        if job["stage"] == "export":  # a worker has one trace
            exported = self._finish({**job, "answers": None})
            job = {**job, "stage": "compile", "folder": None}
        self._finish(job)
        answer, compiled = json.loads(Path(job["answers"]).read_text())
        assert answer == self.template.expected, job
        return exported or float(compiled)

    def _finish(self, job: dict[str, Any]) -> float:
        """Run to the end; returns the seconds."""
        began = time.monotonic()
        self.template.start(job)
        assert self.template.reap() == 0, job
        return time.monotonic() - began


def check_gone(mark: str) -> None:
    """Nothing that a worker of this round started is there after two seconds."""
    until = time.monotonic() + 2
    while running := [pid for pid in filter(str.isdecimal, os.listdir("/proc")) if has_mark(pid, mark)]:
        assert time.monotonic() < until, f"{running} outlived the process that started them"
        time.sleep(0.02)


def has_mark(pid: str, mark: str) -> bool:
    try:
        return mark.encode() in Path("/proc", pid, "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def leftovers(folder: Path) -> list[str]:
    """What no finished run leaves, in the store, in the temporary folder, and beside the folder that was chosen."""
    # ONNX Runtime leaves .ses; a file that lives for an instant is swept when it has been there for a minute.
    paths = [path for path in folder.rglob("*") if path.name != ".ses" and path.suffix != SHORT_LIVED]
    names = [str(path.relative_to(folder)) for path in paths]
    marks = (".tmp-", ".old-", ".damaged-", "unfinished/", "chosen/.")
    return [name for name in names if name.startswith("tmp/") or any(mark in name for mark in marks)]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("num_rounds", "form"),
    [(12, "float"), *(pytest.param(100, form, marks=pytest.mark.sweep) for form in ("float", "gptq"))],
)
def test_killed_at_any_moment(tmp_path: Path, form: str, num_rounds: int) -> None:
    checkpoint = dense = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path / "checkpoint")
    if form == "gptq":
        packer, section = quantized_models.gptq(few_bits=True), {"quant_method": "gptq", "bits": 4}
        checkpoint, weights = quantized_models.quantize(dense, tmp_path / "gptq", packer, section)
        dense = quantized_models.save_dense(dense, tmp_path / "dense", weights)
    with Template.started(checkpoint, dense) as template:
        rounds = Rounds(template, tmp_path / "rounds", random.Random(num_rounds))
        for number in range(num_rounds):
            rounds.run(number)
    assert rounds.num_hit > num_rounds / 2, "too few of the workers were killed before they ended"
