"""Sequence-to-sequence models over programs with retained state: the encoder's input is read where an output sequence
begins, output sequences then go token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.packing import pack_tokens
from QEfficient.generation.sessions.retained import check_names, not_as_described
from QEfficient.generation.sessions.session import Chunk, SessionInfo, check_chunks

TEXT = "encoder_input_ids"
HIDDEN = "encoder_hidden_states"
_ROW_INPUT = "batch_index"


class Seq2SeqSession:
    """See :class:`QEfficient.generation.sessions.session.Session`. The first chunk of a sequence brings
    ``encoder_input_ids``."""

    def __init__(
        self,
        decoder: Program,
        info: SessionInfo,
        *,
        encoder_ctx_len: int,
        encoder_vocab_size: int,
        why_not_padded: str | None = None,
        encoder: Program | None = None,
        hidden_size: int = 0,
    ):
        """
        Args:
            decoder: writes the state of the encoder's output and runs the decoder; also reads the encoder's input,
                if there is no separate encoder.
            info: what the package says that it takes.
            encoder_ctx_len: maximum length of an encoder input, in tokens.
            encoder_vocab_size: tokens that the encoder knows.
            why_not_padded: why an encoder input cannot be padded; None: it can.
            encoder: turns encoder inputs into hidden states, if that is a separate program.
            hidden_size: of its hidden states.

        Raises:
            CorruptArtifact: a program is not what its package says.
        """
        self.info = info
        self.encoder_ctx_len = encoder_ctx_len
        self._vocab_size, self._why_not_padded = encoder_vocab_size, why_not_padded
        self._decoder, self._encoder, self._hidden_size = decoder, encoder, hidden_size
        source = TEXT if encoder is None else HIDDEN
        required = frozenset({"input_ids", "position_ids", "encoder_lens", source})
        check_names(decoder, required, frozenset({_ROW_INPUT}), "logits")
        self._has_batch_index = _ROW_INPUT in decoder.inputs
        self._has_static_shapes = decoder.shapes is not None
        self._encoder_rows, self._decode_rows = self._read_rows()
        self._text_lens = np.zeros(info.num_slots, np.int64)

    def _read_rows(self) -> tuple[int | None, int | None]:
        """Batch rows of a run that reads and of one that does not; None: any number."""
        num_slots = self.info.num_slots
        if self._decoder.shapes is None:
            return (None, None) if self._has_batch_index else (num_slots, num_slots)
        encoder_rows = 1 if self._has_batch_index else num_slots
        sizes = {shape[TEXT] for shape in self._decoder.shapes}
        expected = {(encoder_rows, self.encoder_ctx_len), (num_slots, 1)}
        if sizes != expected:
            fault = f"it takes encoder inputs of {sorted(sizes)}, expected {sorted(expected)}"
            raise not_as_described(self._decoder, fault)
        return encoder_rows, num_slots

    def check(self, text: Sequence[int], index: int = 0) -> None:
        """
        Args:
            text: token ids that the encoder would read.
            index: the prompt's place, for the message.

        Raises:
            CapacityError: it is empty, too long, or of a length that cannot run.
            OptionError: a token is beyond the encoder's vocabulary.
        """
        count, limit = len(text), self.encoder_ctx_len
        if not count:
            raise CapacityError(f"Prompt {index} is empty: the encoder has no token to read.")
        if count > limit:
            raise CapacityError(
                f"Prompt {index} has {count} tokens and the model was compiled for encoder_ctx_len={limit}. Compile "
                f"with encoder_ctx_len={count} or more, or shorten the prompt; nothing is cut silently."
            )
        if self._why_not_padded is not None and self._has_static_shapes and count != limit:
            raise CapacityError(
                f"Prompt {index} has {count} tokens, and this model reads encoder inputs of exactly "
                f"encoder_ctx_len={limit}, because {self._why_not_padded}. Compile with encoder_ctx_len={count}, or "
                "for cpu, which takes any length."
            )
        unknown = [token for token in text if not 0 <= token < self._vocab_size]
        if unknown:
            raise OptionError(
                f"Prompt {index} has the token id {unknown[0]}, and the encoder's go from 0 to {self._vocab_size - 1}. "
                "Was it encoded with another model's tokenizer?"
            )

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.session.Session`."""
        check_chunks(chunks, self.info)
        for chunk in chunks:
            if not chunk.start:
                self._text_lens[chunk.slot] = len(_text(chunk))
        wanted = [index for index, chunk in enumerate(chunks) if chunk.num_logits]
        logits = np.empty((len(chunks), self.info.vocab_size), np.float32)
        for group in self._groups(chunks):
            logits[group] = self._run([chunks[index] for index in group])
        return logits[wanted]

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Indices of the chunks that run together: those with an encoder input, and the others."""
        readers = [index for index, chunk in enumerate(chunks) if len(_text(chunk))]
        others = [index for index, chunk in enumerate(chunks) if not len(_text(chunk))]
        apart = [readers]
        if self._why_not_padded is not None:
            lengths = sorted({len(_text(chunks[index])) for index in readers})
            apart = [[index for index in readers if len(_text(chunks[index])) == length] for length in lengths]
        groups = [part for together in apart for part in _parts(together, self._encoder_rows)]
        return groups + _parts(others, self._decode_rows)

    def _run(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Logits ``[n, vocab]``."""
        num_rows = self._encoder_rows if len(_text(chunks[0])) else self._decode_rows
        slots = self._slots([chunk.slot for chunk in chunks], num_rows)
        rows = [slots.index(chunk.slot) for chunk in chunks]
        packed = ((row, chunk.tokens, chunk.start) for row, chunk in zip(rows, chunks, strict=True))
        inputs = pack_tokens(packed, len(slots), max(len(chunk.tokens) for chunk in chunks))
        inputs["encoder_lens"] = self._text_lens[slots][:, None]
        inputs |= self._read(chunks, rows, len(slots))
        if self._has_batch_index:
            inputs[_ROW_INPUT] = np.array(slots, np.int64)[:, None]
        logits = self._decoder.run(inputs, ["logits"])["logits"]
        return logits[rows, -1].astype(np.float32, copy=False)

    def _read(self, chunks: Sequence[Chunk], rows: Sequence[int], batch_size: int) -> dict[str, np.ndarray]:
        """What the decoder's program takes of the encoder's input; of later chunks something that it does not keep."""
        texts = np.zeros((batch_size, self._text_len(chunks)), np.int64)
        lens = np.ones((batch_size, 1), np.int64)
        for row, chunk in zip(rows, chunks, strict=True):
            texts[row, : len(_text(chunk))] = _text(chunk)
            lens[row] = max(len(_text(chunk)), 1)
        if self._encoder is None:
            return {TEXT: texts}
        if not len(_text(chunks[0])):
            return {HIDDEN: np.zeros((batch_size, 1, self._hidden_size), np.float32)}
        outputs = self._encoder.run({TEXT: texts, "encoder_lens": lens})
        return {HIDDEN: outputs[HIDDEN]}

    def _slots(self, used: list[int], num_rows: int | None) -> list[int]:
        """The state's row of each batch row of a run; those behind the used ones idle."""
        if not self._has_batch_index:
            return [*range(self.info.num_slots)]
        idle = sorted({*range(self.info.num_slots)} - {*used})
        return [*used, *idle[: (num_rows or len(used)) - len(used)]]

    def _text_len(self, chunks: Sequence[Chunk]) -> int:
        if not len(_text(chunks[0])):
            return 1
        return self.encoder_ctx_len if self._has_static_shapes else max(len(_text(chunk)) for chunk in chunks)

    def close(self) -> None:
        """Release memory and devices; the session cannot run afterwards."""
        self._decoder.close()
        if self._encoder is not None:
            self._encoder.close()


_NOTHING = np.zeros(0, np.int64)


def _text(chunk: Chunk) -> np.ndarray:
    return chunk.inputs.get(TEXT, _NOTHING)


def _parts(indices: list[int], size: int | None) -> list[list[int]]:
    size = size or max(len(indices), 1)
    return [indices[begin : begin + size] for begin in range(0, len(indices), size)]
