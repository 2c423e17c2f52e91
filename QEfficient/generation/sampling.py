"""From logits to the next token. Order and meaning of the steps are transformers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from QEfficient.options import SamplingOptions

_NEUTRAL: dict[str, Any] = {
    "begin_suppress_tokens": None,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": None,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "typical_p": 1.0,
    "watermarking_config": None,
}


def entries_without_effect(generation_config: Mapping[str, Any]) -> list[str]:
    """Entries that change answers in transformers but are ignored by the engine, as ``name=value``."""
    return [
        f"{name}={generation_config[name]!r}"
        for name, neutral in _NEUTRAL.items()
        if generation_config.get(name) not in (None, neutral)
    ]


_MOST = 1e300
"""Of a score, up or down."""


ScoreRule = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""Scores of the next token ``[vocab]``, changed by the tokens of the answer so far; may write into them."""


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        options: how.
        banned: sequences of tokens that never occur: the last token of one is no choice after the others.
        rules: what changes scores after all else, in order.
        prompt_len: tokens before the answer, which is what rules look at.
    """

    def __init__(
        self,
        options: SamplingOptions,
        banned: Sequence[Sequence[int]] = (),
        rules: Sequence[ScoreRule] = (),
        prompt_len: int = 0,
    ):
        self.options = options
        self._banned = banned
        self._rules, self._prompt_len = rules, prompt_len
        self._random = np.random.default_rng(options.seed) if options.samples else None

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the argmax of the logits, so that one argmax serves all rows."""
        return (
            self._random is None
            and self.options.repetition_penalty in (None, 1.0)
            and not self._banned
            and not self._rules
        )

    def choose(self, logits: np.ndarray, tokens: list[int]) -> int:
        """The token after ``tokens`` (prompt included), from its logits ``[vocab]``."""
        if self._random is None:
            return int(self._scores(logits, tokens).argmax())
        probabilities = self.probabilities(logits, tokens)
        return int(self._random.choice(len(probabilities), p=probabilities))

    def probabilities(self, logits: np.ndarray, tokens: list[int]) -> np.ndarray:
        """Each token's probability ``[vocab]``, from which :meth:`choose` draws."""
        return _filtered(self._scores(logits, tokens), self.options)

    def _scores(self, logits: np.ndarray, tokens: list[int]) -> np.ndarray:
        scores = logits.astype(np.float64)
        penalty = self.options.repetition_penalty
        if penalty not in (None, 1.0):
            scores = _penalise(scores, tokens, penalty)
        scores[[last for *before, last in self._banned if tokens[len(tokens) - len(before) :] == before]] = -np.inf
        for rule in self._rules:
            scores = rule(scores, tokens[self._prompt_len :])
        return scores


def _penalise(scores: np.ndarray, tokens: list[int], penalty: float) -> np.ndarray:
    seen = np.unique(tokens)
    seen_scores = scores[seen]
    with np.errstate(over="ignore"):
        scores[seen] = np.where(seen_scores < 0, seen_scores * penalty, seen_scores / penalty)
    return scores.clip(-_MOST, _MOST)  # the difference of two is finite


def _filtered(scores: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Probabilities after temperature, top-k, top-p and min-p, in this order."""
    if options.temperature is not None:
        with np.errstate(over="ignore"):  # of differences, an overflow is -inf and right
            scores = (scores - scores.max()) / options.temperature
    if options.top_k:
        kth = np.partition(scores, -min(options.top_k, len(scores)))[-min(options.top_k, len(scores))]
        scores = np.where(scores < kth, -np.inf, scores)
    if options.top_p is not None and options.top_p < 1.0:
        scores = _top_p(scores, options.top_p)
    if options.min_p:
        probabilities = _softmax(scores)
        scores = np.where(probabilities < options.min_p * probabilities.max(), -np.inf, scores)
    return _softmax(scores)


def _top_p(scores: np.ndarray, top_p: float) -> np.ndarray:
    # Summed from the least likely up, as in transformers, so that rounding falls the same way; of equal tokens the
    # first stay.
    order = np.argsort(-scores, kind="stable")[::-1]
    is_dropped = np.cumsum(_softmax(scores)[order]) <= 1 - top_p
    is_dropped[-1] = False
    scores = scores.copy()
    scores[order[is_dropped]] = -np.inf
    return scores


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()
