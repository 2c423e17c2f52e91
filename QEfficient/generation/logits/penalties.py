"""Processors that make tokens less or more likely because of where they occurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from QEfficient.generation.logits.history import History


@dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens of the prompt and the answer: a positive score is divided by ``penalty``, a negative one multiplied."""

    penalty: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            seen, _ = history.seen().below(scores.shape[1])
            _penalise(scores[index], seen, self.penalty)
        return scores


@dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """Tokens that the encoder reads, or of the prompt, become likelier where ``penalty`` is above 1."""

    penalty: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            source, _ = history.source().below(scores.shape[1])
            _penalise(scores[index], source, 1 / self.penalty)
        return scores


def _penalise(scores: np.ndarray, ids: np.ndarray, penalty: float) -> None:
    before, limits = scores[ids], np.finfo(scores.dtype)
    penalty = float(np.clip(penalty, limits.tiny, limits.max))  # beyond, it would be 0 or infinite as a score is
    most = limits.max  # the difference of two is then finite, but for what is ruled out
    with np.errstate(over="ignore"):
        after = np.where(before < 0, before * penalty, before / penalty).clip(-most, most)
    scores[ids] = np.where(np.isneginf(before), before, after)


@dataclass(frozen=True)
class OutputPenalties:
    """Tokens of the answer lose ``frequency`` for each time that they occur in it, and ``presence`` once."""

    frequency: float
    presence: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            ids, counts = history.answered().below(scores.shape[1])
            scores[index, ids] -= (self.frequency * counts).astype(scores.dtype)
            scores[index, ids] -= scores.dtype.type(self.presence)
        return scores
