"""The text of an answer while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns tokens into pieces of complete characters; together they are the text of all tokens.

    Args:
        decode: token ids to their text.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._ids: list[int] = []
        # Decoders treat the beginning of a text differently, so new tokens are decoded after those of the last piece.
        self._begin = 0
        self._num_shown = 0

    def add(self, token_id: int) -> str:
        """The text that the next token completes; often empty."""
        self._ids.append(token_id)
        piece = self._pending()
        if not piece or piece.endswith(_INCOMPLETE):
            return ""
        self._begin, self._num_shown = self._num_shown, len(self._ids)
        return piece

    def finish(self) -> str:
        """The pending text, which no further token completes."""
        piece = self._pending()
        self._begin = self._num_shown = len(self._ids)
        return piece

    def _pending(self) -> str:
        shown = self._decode(self._ids[self._begin : self._num_shown])
        return self._decode(self._ids[self._begin :])[len(shown) :]


class SettledTextStream(TextStream):
    """For decoders that change the end of a text when tokens follow: shows what the last two texts have in common.

    Subwords that are marked as to be continued are joined then, and spaces before signs removed.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        super().__init__(decode)
        self._before = ""
        self._num_chars = 0
        """Of ``_before``, which are shown."""

    def add(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids[self._begin :])
        if text == self._before:  # a token without text shows nothing about the one before
            return ""
        piece = text[self._num_chars : _num_equal(self._before, text)]
        self._num_chars += len(piece)
        self._before = text
        if len(self._ids) - self._begin > 2 * _CONTEXT:
            self._forget(text)
        return piece

    def finish(self) -> str:
        piece = self._before[self._num_chars :]
        self._num_chars = len(self._before)
        return piece

    def _forget(self, text: str) -> None:
        """Decode only the newest tokens from now on, if they end the same text alone."""
        rest = self._decode(self._ids[-_CONTEXT:])
        dropped = len(text) - len(rest)
        if text.endswith(rest) and self._num_chars >= dropped:
            self._begin, self._before = len(self._ids) - _CONTEXT, rest
            self._num_chars -= dropped


def _num_equal(first: str, second: str) -> int:
    """Characters that two texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, pair in pairs if pair[0] != pair[1]), min(len(first), len(second)))


_CONTEXT = 16
"""Tokens that the text of the next one may depend on."""


def stream_text(text: TextStream, ids: Iterable[int]) -> Iterator[str]:
    """Pieces of the text of ``ids``, as they arrive; none is empty."""
    for token_id in ids:
        if piece := text.add(token_id):
            yield piece
    if piece := text.finish():
        yield piece


class AnswerPrinter:
    """Shows the answers to several prompts one after the other, while they are generated in parallel.

    Args:
        text_stream: makes what decodes one answer.
        num_answers: the number of answers.
        show: called with each piece of text.
        end: shown after each answer.
    """

    def __init__(self, text_stream: Callable[[], TextStream], num_answers: int, show: Callable[[str], None], end: str):
        self._text_stream = text_stream
        self._show = show
        self._end = end
        self._waiting: list[list[int]] = [[] for _ in range(num_answers)]
        self._is_done = [False] * num_answers
        self._head = 0
        self._text = text_stream()

    def add(self, index: int, token_id: int, is_last: bool) -> None:
        """Take one token of answer ``index`` and show what can be shown."""
        self._waiting[index].append(token_id)
        self._is_done[index] = is_last
        while self._head < len(self._waiting):
            for waiting in self._waiting[self._head]:
                self._say(self._text.add(waiting))
            self._waiting[self._head].clear()
            if not self._is_done[self._head]:
                return
            self._say(self._text.finish())
            self._say(self._end)
            self._head, self._text = self._head + 1, self._text_stream()

    def _say(self, piece: str) -> None:
        if piece:
            self._show(piece)
