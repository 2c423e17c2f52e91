"""Processors that rule tokens out, or all but some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from QEfficient.generation.logits.history import History


@dataclass(frozen=True)
class NoRepeatedNGrams:
    """No ``size`` tokens in a row occur twice; with ``of_source``, none that the encoder reads, or of the prompt."""

    size: int
    of_source: bool = False

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            repeating = np.array(history.repeating(self.size, of_source=self.of_source), np.int64)
            scores[index, repeating[(repeating >= 0) & (repeating < scores.shape[1])]] = -np.inf
        return scores


@dataclass(frozen=True)
class Suppressed:
    """These tokens do not occur; with ``place``, not at that place of the answer, 0 the first; with ``until``, at none
    before that."""

    ids: tuple[int, ...]
    place: int | None = None
    until: int | None = None

    @cached_property
    def _array(self) -> np.ndarray:
        return np.array(self.ids, np.int64)

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        ids = self._array[(self._array >= 0) & (self._array < scores.shape[1])]
        scores[np.ix_([index for index, history in enumerate(rows) if self._is_due(history)], ids)] = -np.inf
        return scores

    def _is_due(self, history: History) -> bool:
        if self.place is not None:
            return history.answer_len == self.place
        return self.until is None or history.answer_len < self.until


@dataclass(frozen=True)
class Forced:
    """At some places of the answer, 0 the first, one of certain tokens, all equally likely, whatever the model says."""

    places: tuple[tuple[int, tuple[int, ...]], ...]

    @cached_property
    def _ids(self) -> dict[int, tuple[int, ...]]:
        return dict(self.places)

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            if (ids := self._ids.get(history.answer_len)) is not None:
                scores[index] = -np.inf
                scores[index, list(ids)] = 0
        return scores
