"""The seam of what changes the scores of the next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from QEfficient.generation.logits.history import History

ScoreRule = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""Scores of one request's next token ``[vocab]``, changed by its answer so far; may write into them."""


class Processor(Protocol):
    """Changes the scores of the next token of several requests that have the same options.

    It is a value: what it knows of a request is in that one's history.
    """

    def __call__(self, scores: np.ndarray, rows: Sequence[History], /) -> np.ndarray:
        """
        Args:
            scores: ``[rows, vocab]``; may be written into.
            rows: the history of each row.

        Returns:
            The scores from here on.
        """
        ...


@dataclass(frozen=True)
class AnswerRule:
    """A rule that looks at one answer at a time."""

    rule: ScoreRule

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            scores[index] = self.rule(scores[index], history.answer)
        return scores
