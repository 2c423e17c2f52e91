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


def stream_text(decode: Callable[[list[int]], str], ids: Iterable[int]) -> Iterator[str]:
    """Pieces of the text of ``ids``, as they arrive; none is empty."""
    text = TextStream(decode)
    for token_id in ids:
        if piece := text.add(token_id):
            yield piece
    if piece := text.finish():
        yield piece


class AnswerPrinter:
    """Shows the answers to several prompts one after the other, while they are generated in parallel.

    Args:
        decode: token ids to their text.
        num_answers: the number of answers.
        show: called with each piece of text.
        end: shown after each answer.
    """

    def __init__(self, decode: Callable[[list[int]], str], num_answers: int, show: Callable[[str], None], end: str):
        self._decode = decode
        self._show = show
        self._end = end
        self._waiting: list[list[int]] = [[] for _ in range(num_answers)]
        self._is_done = [False] * num_answers
        self._head = 0
        self._text = TextStream(decode)

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
            self._head, self._text = self._head + 1, TextStream(self._decode)

    def _say(self, piece: str) -> None:
        if piece:
            self._show(piece)
