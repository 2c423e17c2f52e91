"""Runs the package of an encoder or a classifier: picks the length, groups the texts, puts the results in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.texts import Text

_PADDED = {"side": "right", "reason": ""}


class EncoderRunner(Protocol):
    """A compiled encoder or classifier, whatever it runs on."""

    has_static_shapes: bool
    """Whether it runs at the compiled lengths only."""

    def run(self, ids: np.ndarray, mask: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """Token ids, mask and segments ``[batch, seq_len]`` to states ``[batch, seq_len, hidden]`` or vectors."""
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
        self._shortest: int = body.get("shortest", 1)
        texts = body.get("texts", {})
        padding = texts.get("padding", _PADDED)
        self._side, self._reason = padding["side"], padding["reason"]
        self._segments: str = texts.get("segments", "none")
        self._end_token_id: int | None = texts.get("end_token_id")

    def run(self, texts: Sequence[Text | Sequence[int]]) -> np.ndarray:
        """Results of all texts in their order: ``[n, ...]``, or ``[n, longest, hidden]`` of states.

        Raises:
            CapacityError: a text is empty, too long, or of a length that cannot run.
            OptionError: a text lacks what the model needs.
        """
        if not texts:
            raise CapacityError("No text was given.")
        given = [text if isinstance(text, Text) else Text(text) for text in texts]
        buckets = [self._bucket(index, text) for index, text in enumerate(given)]
        order = sorted(range(len(given)), key=lambda index: buckets[index])
        longest = max(len(text.ids) for text in given)
        results: list[np.ndarray] = [np.empty(0)] * len(given)
        for group in self._groups(order, buckets):
            rows = self._run_group([given[index] for index in group], buckets[group[-1]])
            for index, row in zip(group, rows, strict=True):
                results[index] = row if row.ndim == 1 else self._own(row, len(given[index].ids), longest)
        return np.stack(results)

    def _groups(self, order: Sequence[int], buckets: Sequence[int]) -> list[list[int]]:
        """Texts that run together: of one length where there is no padding."""
        groups: list[list[int]] = []
        for index in order:
            fits = bool(groups) and len(groups[-1]) < self.batch_size
            if fits and (self._side is not None or buckets[groups[-1][0]] == buckets[index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def _bucket(self, index: int, text: Text) -> int:
        """The length to run a text at."""
        self._check(index, text)
        count = len(text.ids)
        if self._side is None and count < self._shortest:
            raise CapacityError(
                f"Text {index} has {count} tokens, and this package's graph is for {self._shortest} or more; compile "
                f"with seq_len={count} too."
            )
        if self._side is None and (count in self.seq_lens or not self._runner.has_static_shapes):
            return count
        if self._side is None:
            raise CapacityError(
                f"Text {index} has {count} tokens, and this model runs texts at exactly their length, because "
                f"{self._reason}. Compiled are {self.seq_lens}; compile with seq_len={count} too."
            )
        return next(length for length in self.seq_lens if count <= length)

    def _check(self, index: int, text: Text) -> None:
        if not text.ids:
            raise CapacityError(f"Text {index} is empty: it has no token.")
        if len(text.ids) > self.seq_lens[-1]:
            raise CapacityError(
                f"Text {index} has {len(text.ids)} tokens and the greatest compiled seq_len is {self.seq_lens[-1]}. "
                f"Compile with seq_len={len(text.ids)} or more, or shorten the text; nothing is cut silently."
            )
        if self._end_token_id is not None and self._end_token_id not in text.ids:
            raise OptionError(f"Text {index} has no end token ({self._end_token_id}), at which this model answers.")
        if self._segments == "none" and text.segments is not None and any(text.segments):
            raise OptionError(f"Text {index} brings token_type_ids, and the package's model was compiled without.")
        if self._segments == "required" and text.segments is None:
            raise OptionError(f"Text {index} brings no token_type_ids, which this model needs: give text, or them too.")

    def _run_group(self, texts: Sequence[Text], length: int) -> np.ndarray:
        ids, mask, segments = np.zeros((3, len(texts), length), np.int64)
        for row, text in enumerate(texts):
            own = self._place(len(text.ids), length)
            ids[row, own] = text.ids
            mask[row, own] = 1
            if text.segments is not None:
                segments[row, own] = text.segments
        return self._runner.run(ids, mask, None if self._segments == "none" else segments)

    def _place(self, count: int, length: int) -> slice:
        return slice(length - count, length) if self._side == "left" else slice(count)

    def _own(self, states: np.ndarray, count: int, longest: int) -> np.ndarray:
        """The states of a text's own tokens, ``[longest, hidden]`` with zeros after them."""
        own = states[self._place(count, len(states))]
        return np.pad(own, ((0, longest - count), (0, 0)))

    def close(self) -> None:
        """Give the memory back."""
        self._runner.close()
