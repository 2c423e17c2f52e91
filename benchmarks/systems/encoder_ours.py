"""This library's encoders, through its public interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.systems.encoder import EncoderRunner
from QEfficient import from_package
from QEfficient.generation.tasks.encoder import CompiledEncoder


def prepare(checkpoint: Path, folder: Path, *, num_threads: int) -> None:
    """Compile with pooling, for a few lengths; a package that is still current is kept."""
    from QEfficient import QEFFAutoModel

    model = QEFFAutoModel.from_pretrained(checkpoint, pooling="mean")
    model.compile(folder, target="cpu", seq_len=(16, 24, 32), batch_size=32, num_threads=num_threads)


class Runner(EncoderRunner):
    """A compiled package; threads were fixed when it was compiled."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int):
        compiled = from_package(folder)
        assert isinstance(compiled, CompiledEncoder)
        self._compiled = compiled

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._compiled.generate(texts)["output"]
