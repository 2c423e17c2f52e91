"""This library's models that see, through its public interface."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.answers import Answer
from QEfficient import from_package
from QEfficient.generation.request import Request
from QEfficient.generation.tasks.image_text_to_text import CompiledImageTextToText

_CTX_LEN = 1024


def prepare(checkpoint: Path, folder: Path, *, num_threads: int, weight_format: str | None) -> None:
    """Compile the checkpoint; a package that is still current is kept."""
    from QEfficient import QEFFAutoModelForImageTextToText

    model = QEFFAutoModelForImageTextToText.from_pretrained(checkpoint)
    model.compile(folder, target="cpu", ctx_len=_CTX_LEN, weight_format=weight_format, num_threads=num_threads)


class Runner:
    """A compiled package; threads and weights were fixed when it was compiled."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, weight_format: str | None):
        compiled = from_package(folder)
        assert isinstance(compiled, CompiledImageTextToText)
        self._compiled = compiled

    def answer(self, inputs: Mapping[str, np.ndarray], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`; ``inputs`` are a processor's output."""
        began = time.perf_counter()
        (prompt,) = self._compiled.encode(inputs)
        request = Request(prompt_ids=prompt.ids, max_new_tokens=num_new_tokens, media=prompt.media)
        answer = Answer([[]], [[]])
        for token in self._compiled.engine.run([request]):
            answer.ids[0].append(token.token_id)
            answer.arrivals[0].append(time.perf_counter() - began)
        return answer
