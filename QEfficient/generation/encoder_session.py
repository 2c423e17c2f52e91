"""Runs an encoder's package: picks the compiled length, groups the texts, puts the results back in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from QEfficient.errors import CapacityError


class EncoderRunner(Protocol):
    """A compiled encoder, whatever it runs on."""

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Token ids and mask ``[batch, seq_len]`` to hidden states ``[batch, seq_len, hidden]`` or vectors."""
        ...

    def close(self) -> None:
        """Give the memory back; it cannot run after it."""
        ...


class EncoderSession:
    """Texts of any mix of lengths, up to the greatest compiled one."""

    def __init__(self, runner: EncoderRunner, body: Mapping[str, Any]):
        self._runner = runner
        self.seq_lens: list[int] = body["seq_lens"]
        self.batch_size: int = body["batch_size"]

    def run(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Results of all texts in their order: ``[n, hidden]``, or ``[n, longest, hidden]`` without pooling."""
        if not texts:
            raise CapacityError("No text was given.")
        buckets = [self._bucket(index, ids) for index, ids in enumerate(texts)]
        order = sorted(range(len(texts)), key=lambda index: buckets[index])
        longest = max(map(len, texts))
        results: list[np.ndarray] = [np.empty(0)] * len(texts)
        for begin in range(0, len(order), self.batch_size):
            group = order[begin : begin + self.batch_size]
            for index, row in zip(group, self._run_group([texts[i] for i in group], buckets[group[-1]]), strict=True):
                results[index] = row if row.ndim == 1 else _resized(row[: len(texts[index])], longest)
        return np.stack(results)

    def _bucket(self, index: int, ids: Sequence[int]) -> int:
        if not ids:
            raise CapacityError(f"Text {index} is empty: it has no token.")
        for length in self.seq_lens:
            if len(ids) <= length:
                return length
        raise CapacityError(
            f"Text {index} has {len(ids)} tokens and the greatest compiled seq_len is {self.seq_lens[-1]}. Compile "
            f"with seq_len={len(ids)} or more, or shorten the text; nothing is cut silently."
        )

    def _run_group(self, texts: Sequence[Sequence[int]], length: int) -> np.ndarray:
        ids = np.zeros((len(texts), length), np.int64)
        mask = np.zeros((len(texts), length), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return self._runner.run(ids, mask)

    def close(self) -> None:
        """Give the memory back."""
        self._runner.close()


def _resized(states: np.ndarray, length: int) -> np.ndarray:
    """Hidden states ``[own, hidden]`` with zeros up to ``[length, hidden]``."""
    return np.pad(states, ((0, length - len(states)), (0, 0)))
