"""Processors that steer where an answer ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from QEfficient.generation.logits.forbidden import Suppressed
from QEfficient.generation.logits.history import History


def not_before(num_tokens: int, eos_token_ids: tuple[int, ...]) -> Suppressed:
    """No end token among the first ``num_tokens`` of an answer."""
    return Suppressed(eos_token_ids, until=num_tokens)


@dataclass(frozen=True)
class LengthDecay:
    """After ``start`` tokens of the answer, end tokens become exponentially likelier."""

    start: int
    factor: float
    eos_token_ids: tuple[int, ...]

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        ids = list(self.eos_token_ids)
        for index, history in enumerate(rows):
            num_late = history.answer_len - self.start
            if num_late > 0:
                ends = scores[index, ids]
                with np.errstate(invalid="ignore", over="ignore"):
                    gain = np.abs(ends) * scores.dtype.type(self.factor**num_late - 1)
                scores[index, ids] = ends + np.where(np.isfinite(ends), gain, 0)
        return scores
