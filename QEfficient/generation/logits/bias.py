"""Processors that add to the scores of tokens, or rule them out by adding minus infinity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from QEfficient.generation.logits.history import History

Biases = tuple[tuple[tuple[int, ...], float], ...]
"""Sequences of tokens, each with what its last token gets where the others come right before it."""


@dataclass(frozen=True)
class SequenceBias:
    """Adds to the scores of tokens that would complete a sequence."""

    biases: Biases

    @cached_property
    def _singles(self) -> dict[int, np.float32]:
        return {ids[0]: np.float32(bias) for ids, bias in self.biases if len(ids) == 1}

    @cached_property
    def _single_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([*self._singles], np.int64), np.array([*self._singles.values()], np.float32)

    @cached_property
    def _longer(self) -> dict[int, dict[tuple[int, ...], list[tuple[int, np.float32]]]]:
        """By the number of tokens before the last, and by these: last tokens and what they get."""
        longer: dict[int, dict[tuple[int, ...], list[tuple[int, np.float32]]]] = {}
        for ids, bias in self.biases:
            if len(ids) > 1:
                begins = longer.setdefault(len(ids) - 1, {})
                begins.setdefault(ids[:-1], []).append((ids[-1], np.float32(bias)))
        return longer

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            # What a token gets is summed first, as in transformers, so that rounding is the same.
            sums = self._completing(history.tokens)
            before = {token: scores[index, token] for token in sums}
            ids, values = self._single_arrays
            scores[index, ids] += values
            for token, bias in sums.items():
                scores[index, token] = before[token] + bias
        return scores

    def _completing(self, tokens: list[int]) -> dict[int, np.float32]:
        sums: dict[int, np.float32] = {}
        for length, begins in self._longer.items():
            if length <= len(tokens):
                for token, bias in begins.get(tuple(tokens[-length:]), ()):
                    sums[token] = sums.get(token, self._singles.get(token, np.float32(0))) + bias
        return sums


def never(sequences: Sequence[Sequence[int]], eos_token_ids: frozenset[int]) -> SequenceBias:
    """Sequences that do not occur. As in transformers, an end token alone cannot be banned."""
    banned = [tuple(ids) for ids in sequences if len(ids) > 1 or ids[0] not in eos_token_ids]
    return SequenceBias(tuple((ids, -np.inf) for ids in banned))
