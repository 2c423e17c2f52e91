"""Prefill and decode of causal LMs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.answers import Answer, decode_rate, first_token_s, fresh_prompts
from benchmarks.preparing import groups, loaded, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Figures, Results, run_rounds
from benchmarks.settings import Settings
from benchmarks.shapes import Shape, num_weights
from benchmarks.systems import System
from benchmarks.worker import Worker
from QEfficient.progress import stage

_FIGURES = (
    Figure("prefill_s", "prefill x1", "s", lower_is_better=True),
    Figure("decode_1", "decode x1", "tokens/s"),
    Figure("decode_8", "decode x8", "tokens/s"),
)


def checkpoint_of(shape: Shape, settings: Settings) -> Path:
    """The shape's checkpoint, made if it is not there."""
    folder = settings.work_dir / "checkpoints" / shape.name
    arguments = {"shape": shape, "folder": folder}
    log = settings.work_dir / "logs" / f"{shape.name}.log"
    with stage("Making a checkpoint", shape.name):
        Worker("benchmarks.shapes:make_checkpoint", arguments, log, settings.num_threads).close()
    return folder


def measure_generation(shape: Shape, systems: list[System], settings: Settings) -> Part:
    """One shape over all systems.

    A request of one prompt gives the time to its first token and the rate of the rest; a request of eight gives the
    rate while all eight decode. Every system of a round answers the same prompts, which it has not seen before.
    """
    checkpoint = checkpoint_of(shape, settings)
    results = Results()
    first_tokens: dict[str, list[int]] = {}

    def measure(system: str, worker: Worker, number: int) -> Figures:
        prompts = fresh_prompts(shape.vocab_size, settings.prompt_len, number)
        single: Answer = worker.call("answer", prompts[:1], settings.num_new_tokens)
        batch: Answer = worker.call("answer", prompts, settings.num_new_tokens)
        if number == 0:
            first_tokens[system] = [ids[0] for ids in batch.ids]
        return {"prefill_s": first_token_s(single), "decode_1": decode_rate(single), "decode_8": decode_rate(batch)}

    ready = prepare(systems, checkpoint, settings, results)
    for group in groups(ready, num_weights(checkpoint), settings.memory_bytes):
        with loaded(group, checkpoint, settings, results) as workers:
            run_rounds(workers, settings.num_rounds, measure, results)
    results.agreement = _agreement(first_tokens, systems)
    return Part(
        title=f"{shape.name}, prompts of {settings.prompt_len} tokens",
        figures=_FIGURES,
        systems=systems,
        results=results,
    )


def _agreement(first_tokens: dict[str, list[int]], systems: list[System]) -> dict[str, float]:
    """The share of prompts on whose first new token a system agrees with the first peer that runs the checkpoint as
    it is. With random weights the likeliest tokens are close, so rounding changes many; another model agrees on none.
    """
    references = [s.name for s in systems if not s.is_ours and s.weights == "checkpoint" and s.name in first_tokens]
    if not references:
        return {}
    reference = first_tokens[references[-1]]
    return {
        name: sum(a == b for a, b in zip(tokens, reference, strict=True)) / len(reference)
        for name, tokens in first_tokens.items()
    }
