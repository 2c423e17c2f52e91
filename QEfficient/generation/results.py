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
    """New tokens per second in the other steps: of all sequences together, but of one where a card's package was
    compiled without continuous batching."""
    total_perf: float
    """New tokens per second over the whole run, of as many sequences."""
    total_time: float
    """Seconds of the whole run."""
    num_sequences: int = 1
    """What to multiply the two by for all sequences together: how many ran at once where they are of one, else 1."""


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

    def padded_ids(self, length: int, pad_token_id: int = 0) -> np.ndarray:
        """:attr:`generated_ids` as one array ``[prompts, length]``, which is upstream's form of them.

        Args:
            length: new tokens at most; upstream's is ``ctx_len``.
            pad_token_id: what comes after the last token.
        """
        rows = np.full((len(self.generated_ids), length), pad_token_id, np.int64)
        for row, ids in zip(rows, self.generated_ids, strict=True):
            row[: len(ids)] = ids[:length]
        return rows

    @property
    def speed(self) -> str:
        """:attr:`perf_metrics` in a line, of all sequences together."""
        metrics = self.perf_metrics
        decode, total = (rate * metrics.num_sequences for rate in (metrics.decode_perf, metrics.total_perf))
        return (
            f"[prefill {metrics.prefill_time:.2f} s, decode {decode:.1f} tokens/s, total {total:.1f} tokens/s over "
            f"{metrics.total_time:.2f} s]"
        )

    def __str__(self) -> str:
        return "\n".join([*self.generated_texts, self.speed])
