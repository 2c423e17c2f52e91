"""Logarithms of probabilities, as the model has them before anything changes its scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from QEfficient.generation.logits.truncation import log_softmax


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token of an answer was."""

    token_id: int
    logprob: float
    """The natural logarithm of its probability, by the model's logits as they are."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and theirs, the likeliest first."""


def token_logprob(logits: np.ndarray, token_id: int, num_top: int) -> TokenLogprob:
    """
    Args:
        logits: ``[vocab]``.
        token_id: the token that was chosen.
        num_top: how many of the likeliest to name.
    """
    logarithms = log_softmax(logits.astype(np.float64))
    count = min(num_top, len(logarithms))
    likeliest = np.argpartition(-logarithms, count - 1)[:count] if count else np.zeros(0, np.int64)
    likeliest = likeliest[np.lexsort((likeliest, -logarithms[likeliest]))]
    top = tuple((int(token), float(logarithms[token])) for token in likeliest)
    return TokenLogprob(token_id, float(logarithms[token_id]), top)
