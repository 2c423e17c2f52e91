"""What a request's processors look at: its tokens, and counts of them that are kept up to date as they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TokenCounts:
    """How often each token occurs among those that were read."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros(64, np.int64)

    def read(self, token: int) -> None:
        """Count one more token."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids, self._counts = (
                np.concatenate([each, np.zeros_like(each)]) for each in (self._ids, self._counts)
            )
        self._ids[place] = token
        self._counts[place] += 1

    def below(self, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of the vocabulary among them, each once, and how often each occurs. A prompt may have others, in
        the places of images."""
        ids, counts = self._ids[: len(self._places)], self._counts[: len(self._places)]
        is_inside = (ids >= 0) & (ids < vocab_size)
        return ids[is_inside], counts[is_inside]


class NGrams:
    """What came after each sequence of ``size - 1`` tokens."""

    def __init__(self, size: int):
        self.size = size
        self._following: dict[tuple[int, ...], list[int]] = {}
        self._num_read = 0

    def read(self, tokens: Sequence[int]) -> None:
        """Take in the tokens that came since the last call."""
        for end in range(max(self._num_read, self.size - 1), len(tokens)):
            begin = tuple(tokens[end - self.size + 1 : end])
            self._following.setdefault(begin, []).append(tokens[end])
        self._num_read = len(tokens)

    def after(self, tokens: Sequence[int]) -> list[int]:
        """Tokens that would repeat an n-gram after ``tokens``."""
        begin = len(tokens) - self.size + 1
        return self._following.get(tuple(tokens[begin:]), []) if begin >= 0 else []


class History:
    """The tokens of one request.

    Args:
        tokens: prompt and answer so far; whoever generates appends to this list.
        prompt_len: how many of them are the prompt.
        source_ids: what the encoder reads, of a model that has one, else the prompt; None: it reads no tokens.
    """

    def __init__(self, tokens: list[int], prompt_len: int = 0, source_ids: Sequence[int] | None = None):
        self.tokens, self.prompt_len, self.source_ids = tokens, prompt_len, source_ids
        self._counts: dict[int, tuple[TokenCounts, int]] = {}
        self._ngrams: dict[tuple[int, bool], NGrams] = {}
        self._source: TokenCounts | None = None

    @property
    def answer(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.prompt_len :]

    @property
    def answer_len(self) -> int:
        """How many these are."""
        return len(self.tokens) - self.prompt_len

    def seen(self) -> TokenCounts:
        """Of prompt and answer."""
        return self._counted(0)

    def answered(self) -> TokenCounts:
        """Of the answer."""
        return self._counted(self.prompt_len)

    def source(self) -> TokenCounts:
        """Of what the encoder reads, or of the prompt."""
        if self._source is None:
            self._source = TokenCounts()
            for token in self.source_ids or ():
                self._source.read(token)
        return self._source

    def _counted(self, begin: int) -> TokenCounts:
        counts, num_read = self._counts.get(begin, (TokenCounts(), begin))
        for token in self.tokens[num_read:]:
            counts.read(token)
        self._counts[begin] = counts, len(self.tokens)
        return counts

    def repeating(self, size: int, *, of_source: bool = False) -> list[int]:
        """Tokens that would repeat ``size`` tokens in a row of prompt and answer, or of what the encoder reads."""
        ngrams = self._ngrams.setdefault((size, of_source), NGrams(size))
        ngrams.read((self.source_ids or ()) if of_source else self.tokens)
        return ngrams.after(self.tokens)
