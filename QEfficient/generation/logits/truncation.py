"""Processors of sampling: temperature, and those that leave the likeliest tokens in some sense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from QEfficient.generation.logits.history import History


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Their logarithms."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _entropy(logarithms: np.ndarray) -> np.ndarray:
    """Of each row ``[rows, 1]``, from logarithms of probabilities."""
    with np.errstate(invalid="ignore"):
        return -np.nansum(logarithms * np.exp(logarithms), axis=-1, keepdims=True)


@dataclass(frozen=True)
class Temperature:
    """Divides the scores."""

    temperature: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        with np.errstate(over="ignore"):  # of differences, an overflow is -inf and right
            return (scores - scores.max(axis=-1, keepdims=True)) / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest tokens."""

    top_k: int

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        place = scores.shape[-1] - min(self.top_k, scores.shape[-1])
        kth = np.partition(scores, place, axis=-1)[:, place, None]
        return np.where(scores < kth, -np.inf, scores)


@dataclass(frozen=True)
class TopP:
    """Keeps the likeliest tokens that together reach ``top_p``."""

    top_p: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        probabilities = softmax(scores)
        # All tokens below this come to less than what is dropped, so only the others need an order.
        is_sorted = (probabilities >= (1 - self.top_p) / scores.shape[1]).any(axis=0)
        rest = probabilities[:, ~is_sorted].sum(axis=-1, keepdims=True)
        # Summed from the least likely up, as in transformers, so that rounding falls the same way; of equal tokens the
        # first stay.
        order = np.argsort(-scores[:, is_sorted], kind="stable", axis=-1)[:, ::-1]
        sums = np.cumsum(np.take_along_axis(probabilities[:, is_sorted], order, -1), axis=-1)
        is_dropped = rest + sums <= 1 - self.top_p
        is_dropped[:, -1] = False
        kept = np.full_like(scores, -np.inf)
        kept[:, is_sorted] = _without(scores[:, is_sorted], order, is_dropped)
        return kept


@dataclass(frozen=True)
class MinP:
    """Keeps tokens of at least this share of the likeliest one's probability."""

    min_p: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        probabilities = softmax(scores)
        least = self.min_p * probabilities.max(axis=-1, keepdims=True)
        return np.where(probabilities < least, -np.inf, scores)


@dataclass(frozen=True)
class TypicalP:
    """Keeps tokens whose information is nearest to the entropy, until they reach ``mass``."""

    mass: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        logarithms = log_softmax(scores)
        distances = np.abs(-logarithms - _entropy(logarithms))
        order = np.argsort(distances, kind="stable", axis=-1)
        sums = np.cumsum(np.take_along_axis(softmax(scores), order, -1), axis=-1)
        last = np.minimum((sums < self.mass).sum(axis=-1, keepdims=True), scores.shape[-1] - 1)
        ordered = np.take_along_axis(distances, order, -1)
        is_dropped = ordered > np.take_along_axis(ordered, last, -1)
        is_dropped[:, 0] = False
        return _without(scores, order, is_dropped)


@dataclass(frozen=True)
class Epsilon:
    """Keeps tokens of at least this probability, and the likeliest."""

    cutoff: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        return _without_unlikely(scores, self.cutoff)


@dataclass(frozen=True)
class Eta:
    """Like :class:`Epsilon`, with a lower cutoff where many tokens are about as likely."""

    cutoff: float

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        entropy = _entropy(log_softmax(scores))
        return _without_unlikely(scores, np.minimum(self.cutoff, np.sqrt(self.cutoff) * np.exp(-entropy)))


def _without_unlikely(scores: np.ndarray, least: float | np.ndarray) -> np.ndarray:
    is_dropped = (softmax(scores) < least) & (scores < scores.max(axis=-1, keepdims=True))
    return np.where(is_dropped, -np.inf, scores)


def _without(scores: np.ndarray, order: np.ndarray, is_dropped: np.ndarray) -> np.ndarray:
    """``scores`` without tokens that are said in the order of ``order``."""
    in_place = np.empty_like(is_dropped)
    np.put_along_axis(in_place, order, is_dropped, axis=-1)
    return np.where(in_place, -np.inf, scores)
