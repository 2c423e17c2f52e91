"""This library's speech models, through its public interface."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from QEfficient import from_package
from QEfficient.generation.tasks.speech_seq2seq import CompiledSpeechSeq2Seq


def prepare(checkpoint: Path, folder: Path, *, num_threads: int) -> None:
    """Compile with the defaults; a package that is still current is kept."""
    from QEfficient import QEFFAutoModelForSpeechSeq2Seq

    model = QEFFAutoModelForSpeechSeq2Seq.from_pretrained(checkpoint)
    model.compile(folder, target="cpu", num_threads=num_threads)


class Runner:
    """A compiled package; threads were fixed when it was compiled."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int):
        compiled = from_package(folder)
        assert isinstance(compiled, CompiledSpeechSeq2Seq)
        self._compiled = compiled

    def transcribe(self, samples: np.ndarray, num_tokens: int) -> tuple[float, list[int]]:
        """Seconds, and the tokens of the answer."""
        began = time.perf_counter()
        answer = self._compiled.generate(samples, generation_len=num_tokens)
        return time.perf_counter() - began, answer.generated_ids[0].tolist()
