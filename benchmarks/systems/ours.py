"""This library, through its public interface."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.answers import CONTEXT_LEN, NUM_SEQUENCES, Answer
from QEfficient import from_package
from QEfficient.generation.request import Request
from QEfficient.generation.tasks.causal_lm import CompiledCausalLM


def prepare(checkpoint: Path, folder: Path, *, num_threads: int, weight_format: str | None) -> None:
    """Compile the checkpoint; a package that is still current is kept."""
    from QEfficient import QEFFAutoModelForCausalLM

    QEFFAutoModelForCausalLM.from_pretrained(checkpoint).compile(
        folder,
        target="cpu",
        ctx_len=CONTEXT_LEN,
        full_batch_size=NUM_SEQUENCES,
        weight_format=weight_format,
        num_threads=num_threads,
    )


class Runner:
    """A compiled package; threads and weights were fixed when it was compiled."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, weight_format: str | None):
        compiled = from_package(folder)
        assert isinstance(compiled, CompiledCausalLM)
        self._engine = compiled.engine

    def answer(self, prompts: list[list[int]], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`. No end token is given, so none stops an answer."""
        began = time.perf_counter()
        answer = Answer([[] for _ in prompts], [[] for _ in prompts])
        for token in self._engine.run(Request(prompt_ids=ids, max_new_tokens=num_new_tokens) for ids in prompts):
            answer.ids[token.index].append(token.token_id)
            answer.arrivals[token.index].append(time.perf_counter() - began)
        return answer
