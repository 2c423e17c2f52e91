"""The text of an answer while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from QEfficient.generation.space_cleanup import SpaceCleaner

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns tokens into pieces of complete characters; together they are the text of all tokens.

    Args:
        decode: token ids to their text, its spaces not cleaned up.
        cleans_spaces: whether the text is to be cleaned, as :func:`QEfficient.generation.space_cleanup.clean_up` does.
        probe_ids: tokens that may change the text of tokens before them.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], *, cleans_spaces: bool = False, probe_ids: Iterable[int] = ()
    ):
        self._decode = decode
        self._cleaner = SpaceCleaner() if cleans_spaces else None
        self._probe_ids = tuple(probe_ids)
        # Decoders treat the beginning of a text differently, so new tokens are decoded after those of the last piece.
        self._last_ids: list[int] = []
        self._last_text = ""
        self._new_ids: list[int] = []

    def add(self, token_id: int) -> str:
        """The text that the next token completes; often empty."""
        self._new_ids.append(token_id)
        text = self._decode(self._last_ids + self._new_ids)
        piece = text[len(self._last_text) :]
        if not piece or piece.endswith(_INCOMPLETE) or not self._is_settled(text):
            return ""
        self._last_ids, self._new_ids = self._new_ids, []
        self._last_text = self._decode(self._last_ids)
        return self._cleaner.add(piece) if self._cleaner else piece

    def _is_settled(self, text: str) -> bool:
        """Whether the next token leaves ``text`` as it is, as far as a few tokens show: after an invalid byte, bytes
        before it are none of a character; ``@@`` at the end joins a token to the next."""
        ids = self._last_ids + self._new_ids
        probe_ids = {*self._new_ids, *self._probe_ids}  # not the last alone, which may be a special token without text
        return all(self._decode([*ids, probe_id]).startswith(text) for probe_id in probe_ids)

    def finish(self) -> str:
        """The pending text, which no further token completes."""
        piece = self._decode(self._last_ids + self._new_ids)[len(self._last_text) :]
        self._last_ids, self._last_text, self._new_ids = [], "", []
        return self._cleaner.add(piece) + self._cleaner.finish() if self._cleaner else piece

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Pieces of the text of ``ids``, as they arrive; none is empty."""
        for token_id in ids:
            if piece := self.add(token_id):
                yield piece
        if piece := self.finish():
            yield piece


class AnswerPrinter:
    """Shows the answers to several prompts one after the other, while they are generated in parallel.

    Args:
        new_stream: makes a stream for each answer's tokens.
        num_answers: the number of answers.
        show: called with each piece of text.
        end: shown after each answer.
    """

    def __init__(self, new_stream: Callable[[], TextStream], num_answers: int, show: Callable[[str], None], end: str):
        self._new_stream = new_stream
        self._show = show
        self._end = end
        self._waiting: list[list[int]] = [[] for _ in range(num_answers)]
        self._is_done = [False] * num_answers
        self._head = 0
        self._text = new_stream()

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
            self._head, self._text = self._head + 1, self._new_stream()

    def _say(self, piece: str) -> None:
        if piece:
            self._show(piece)
