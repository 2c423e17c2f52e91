"""Runs the package of a text-to-text model: texts are read where an answer begins, answers then go token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.sessions.session import Chunk, SessionInfo


class Seq2SeqRunner(Protocol):
    """A compiled text-to-text model with its state, whatever it runs on."""

    has_static_shapes: bool
    """Whether it runs at the compiled sizes only."""
    takes_rows: bool
    """Whether a run names the rows of the state that it works on; else row i of a run is row i of the state."""
    encoder_rows: int | None
    """Rows of a run that reads texts; None: any number."""
    decode_rows: int | None
    """Rows of a run that reads none; None: any number."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The graph's inputs, less its state, to logits float32 ``[rows, vocab]``, valid until the next run."""
        ...

    def close(self) -> None:
        """Give the memory back; it cannot run after it."""
        ...


class Seq2SeqSession:
    """See :class:`QEfficient.generation.sessions.session.Session`. The first chunk of an answer brings its text."""

    def __init__(self, runner: Seq2SeqRunner, body: Mapping[str, Any]):
        self.info = SessionInfo(**body["session"])
        self.encoder_ctx_len: int = body["encoder_ctx_len"]
        self._vocab_size: int = body["encoder_vocab_size"]
        self._is_padded = body["texts"]["side"] is not None
        self._reason: str = body["texts"]["reason"]
        self._runner = runner
        self._text_lens = np.zeros(self.info.num_slots, np.int64)

    def check(self, text: Sequence[int], index: int = 0) -> None:
        """
        Args:
            text: what an encoder would read.
            index: its place among the prompts, for the message.

        Raises:
            CapacityError: it is empty, too long, or of a length that cannot run.
            OptionError: a token is none that the model knows.
        """
        count, most = len(text), self.encoder_ctx_len
        if not count:
            raise CapacityError(f"Prompt {index} is empty: the encoder has no token to read.")
        if count > most:
            raise CapacityError(
                f"Prompt {index} has {count} tokens and the model was compiled for encoder_ctx_len={most}. Compile "
                f"with encoder_ctx_len={count} or more, or shorten the prompt; nothing is cut silently."
            )
        if not self._is_padded and self._runner.has_static_shapes and count != most:
            raise CapacityError(
                f"Prompt {index} has {count} tokens, and this model reads texts of exactly encoder_ctx_len={most}, "
                f"because {self._reason}. Compile with encoder_ctx_len={count}, or for cpu, which takes any length."
            )
        unknown = [token for token in text if not 0 <= token < self._vocab_size]
        if unknown:
            raise OptionError(
                f"Prompt {index} has the token id {unknown[0]}, and the encoder's go from 0 to {self._vocab_size - 1}. "
                "Was it encoded with another model's tokenizer?"
            )

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.session.Session`."""
        for chunk in chunks:
            if not chunk.start:
                self._text_lens[chunk.slot] = len(chunk.text)
        wanted = [index for index, chunk in enumerate(chunks) if chunk.wants_logits]
        logits = np.empty((len(chunks), self.info.vocab_size), np.float32)
        for group in self._groups(chunks):
            logits[group] = self._run([chunks[index] for index in group])
        return logits[wanted]

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Places of the chunks that run together: those that read texts, and the others."""
        readers = [index for index, chunk in enumerate(chunks) if chunk.text]
        others = [index for index, chunk in enumerate(chunks) if not chunk.text]
        apart = [readers]
        if not self._is_padded:
            lengths = sorted({len(chunks[index].text) for index in readers})
            apart = [[index for index in readers if len(chunks[index].text) == length] for length in lengths]
        groups = [part for together in apart for part in _parts(together, self._runner.encoder_rows)]
        return groups + _parts(others, self._runner.decode_rows)

    def _run(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Logits ``[n, vocab]``."""
        is_reading = bool(chunks[0].text)
        most = self._runner.encoder_rows if is_reading else self._runner.decode_rows
        slots = self._slots([chunk.slot for chunk in chunks], most)
        places = [slots.index(chunk.slot) for chunk in chunks]
        ids = np.zeros((len(slots), max(len(chunk.tokens) for chunk in chunks)), np.int64)
        positions = np.full_like(ids, -1)
        texts = np.zeros((len(slots), self._text_len(chunks)), np.int64)
        for place, chunk in zip(places, chunks, strict=True):
            count = len(chunk.tokens)
            ids[place, :count] = chunk.tokens
            positions[place, :count] = np.arange(chunk.start, chunk.start + count)
            texts[place, : len(chunk.text)] = chunk.text
        inputs = {"input_ids": ids, "position_ids": positions, "encoder_input_ids": texts}
        inputs["encoder_lens"] = self._text_lens[slots][:, None]
        if self._runner.takes_rows:
            inputs["batch_index"] = np.array(slots, np.int64)[:, None]
        return self._runner.run(inputs)[places]

    def _slots(self, used: list[int], most: int | None) -> list[int]:
        """The state's row of each row of a run; those behind the used ones idle."""
        if not self._runner.takes_rows:
            return [*range(self.info.num_slots)]
        idle = sorted({*range(self.info.num_slots)} - {*used})
        return [*used, *idle[: (most or len(used)) - len(used)]]

    def _text_len(self, chunks: Sequence[Chunk]) -> int:
        if not chunks[0].text:
            return 1
        longest = max(len(chunk.text) for chunk in chunks)
        return self.encoder_ctx_len if self._runner.has_static_shapes else longest

    def close(self) -> None:
        """Give the memory back; the session cannot run after it."""
        self._runner.close()


def _parts(indices: list[int], size: int | None) -> list[list[int]]:
    size = size or max(len(indices), 1)
    return [indices[begin : begin + size] for begin in range(0, len(indices), size)]
