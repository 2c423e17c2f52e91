"""The result of a run. Field names are upstream's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from QEfficient.generation.logits.logprobs import TokenLogprob


@dataclass(frozen=True)
class PerfMetrics:
    """How fast a run was."""

    prefill_time: float
    """Seconds in steps that took prompt tokens."""
    decode_perf: float
    """New tokens per second in the other steps, over all sequences."""
    total_perf: float
    """New tokens per second over the whole run."""
    total_time: float
    """Seconds of the whole run."""


@dataclass(frozen=True)
class CloudAI100ExecInfo:
    """The answers to a batch of prompts, in the prompts' order."""

    batch_size: int
    """Sequences that ran at once."""
    generated_texts: list[str]
    """Empty if the package has no tokenizer and none was passed."""
    generated_ids: list[np.ndarray]
    """One row per prompt: the new tokens, including the end token if there is one."""
    perf_metrics: PerfMetrics
    finish_reasons: list[str] = field(default_factory=list)
    """Why each answer ended: "stop" at an end token, a stop string or a stopping criterion, "length" at its maximum."""
    first_token_times: list[float] = field(default_factory=list)
    """Seconds from the call to the first token of each answer, waiting for a slot included."""
    logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    """Of each token of each answer, where ``logprobs`` asked for them; else empty."""

    @property
    def speed(self) -> str:
        """:attr:`perf_metrics` in a line."""
        metrics = self.perf_metrics
        return (
            f"[prefill {metrics.prefill_time:.2f} s, decode {metrics.decode_perf:.1f} tokens/s, "
            f"total {metrics.total_perf:.1f} tokens/s over {metrics.total_time:.2f} s]"
        )

    def __str__(self) -> str:
        return "\n".join([*self.generated_texts, self.speed])
