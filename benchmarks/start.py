"""From the start of a process to its first token."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.generation import checkpoint_of
from benchmarks.preparing import exported, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Results, rotated
from benchmarks.settings import Settings
from benchmarks.shapes import Shape
from benchmarks.systems import System
from benchmarks.worker import last_line

_FIGURES = (
    Figure("warm_s", "files in memory", "s", lower_is_better=True),
    Figure("cold_s", "files on disk", "s", lower_is_better=True),
)
_OURS = """
import sys
from QEfficient import from_package
answer = from_package(sys.argv[1]).generate([list(range(2, 18))], generation_len=1)
print(answer.generated_ids[0][0])
"""
_HUGGING_FACE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
ids = torch.arange(2, 18)[None]
print(model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1)[0, -1].item())
"""


def measure_start(shape: Shape, systems: list[System], settings: Settings) -> Part:
    """Ours from its package, with the weights that ``systems`` has; Hugging Face from the checkpoint."""
    checkpoint = checkpoint_of(shape, settings)
    results = Results()
    systems = [system for system in systems if system.is_ours or system.name == "hf-bf16"]
    ready = prepare(systems, checkpoint, settings, results)
    folders = {s.name: exported(s, checkpoint, settings) if s.is_ours else checkpoint for s in ready}
    code = {s.name: _OURS if s.is_ours else _HUGGING_FACE for s in ready}
    log = settings.work_dir / "logs" / f"{shape.name}.start.log"
    for number in range(settings.num_rounds):
        results.rounds.append({})
        for name in rotated(list(folders), number):
            if name in results.failures:
                continue
            try:
                _drop_from_memory(folders[name])
                cold, warm = (_seconds(code[name], folders[name], log, settings.num_threads) for _ in range(2))
                results.rounds[-1][name] = {"cold_s": cold, "warm_s": warm}
            except subprocess.CalledProcessError:
                results.failures[name] = f"{last_line(log)} (see {log})"
    title = f"{shape.name}: from the start of a process to its first token"
    return Part(title=title, figures=_FIGURES, systems=systems, results=results)


def _seconds(code: str, folder: Path, log: Path, num_threads: int) -> float:
    """How long a fresh process takes until it has printed its first token."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    began = time.perf_counter()
    with log.open("wb") as errors:
        command = [sys.executable, "-c", code, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.communicate()
    if not line or process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds


def _drop_from_memory(folder: Path) -> None:
    """Ask the system to forget the files' pages; the libraries' own stay."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
