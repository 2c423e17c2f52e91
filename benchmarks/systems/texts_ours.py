"""This library's vectors of texts of any length, through its public interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.systems.encoder import EncoderRunner
from QEfficient import from_package
from QEfficient.generation.tasks.encoder import CompiledEncoder

_STEP, _LONGEST, _BATCH_SIZE = 16, 256, 32


def prepare(checkpoint: Path, folder: Path, *, num_threads: int, precision: str | None = None) -> None:
    """Compile for lengths in small steps, with what the folder says of pooling; a current package is kept."""
    from QEfficient import QEFFAutoModel

    lengths = tuple(range(_STEP, _LONGEST + 1, _STEP))
    options = {"seq_len": lengths, "batch_size": _BATCH_SIZE, "num_threads": num_threads, "precision": precision}
    QEFFAutoModel.from_pretrained(checkpoint).compile(folder, target="cpu", **options)


class Runner(EncoderRunner):
    """A compiled package; threads were fixed when it was compiled."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, precision: str | None = None):
        compiled = from_package(folder)
        assert isinstance(compiled, CompiledEncoder)
        self._compiled = compiled

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._compiled.encode(texts)
