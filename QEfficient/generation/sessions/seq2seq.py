"""Sequence-to-sequence models over programs with retained state: the encoder's input is read where an output sequence
begins, output sequences then go token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.packing import pack_tokens
from QEfficient.generation.sessions.readers import Reader
from QEfficient.generation.sessions.retained import check_names, not_as_described
from QEfficient.generation.sessions.session import Chunk, SessionInfo, check_chunks

HIDDEN, LENS = "encoder_hidden_states", "encoder_lens"
_ROW_INPUT = "batch_index"


class Seq2SeqSession:
    """See :class:`QEfficient.generation.sessions.session.Session`. The first chunk of a sequence brings the encoder's
    input."""

    def __init__(
        self,
        decoder: Program,
        info: SessionInfo,
        reader: Reader,
        *,
        encoder: Program | None = None,
        hidden_size: int = 0,
    ):
        """
        Args:
            decoder: writes the state of the encoder's output and runs the decoder; also reads the encoder's input,
                if there is no separate encoder.
            info: what the package says that it takes.
            reader: of the encoder's input.
            encoder: turns encoder inputs into hidden states, if that is a separate program.
            hidden_size: of its hidden states.

        Raises:
            CorruptArtifact: a program is not what its package says.
        """
        self.info, self.reader = info, reader
        self._decoder, self._encoder, self._hidden_size = decoder, encoder, hidden_size
        lens = {LENS} if reader.has_lens else set()
        source = reader.name if encoder is None else HIDDEN
        check_names(decoder, frozenset({"input_ids", "position_ids", source, *lens}), frozenset({_ROW_INPUT}), "logits")
        if encoder is not None:
            check_names(encoder, frozenset({reader.name, *lens}), frozenset(), HIDDEN)
        self._has_batch_index = _ROW_INPUT in decoder.inputs
        self._has_static_shapes = decoder.shapes is not None
        self._encoder_rows, self._decode_rows = self._read_rows()
        self._source_lens = np.full(info.num_slots, reader.idle_lens, np.int64)

    def _read_rows(self) -> tuple[int | None, int | None]:
        """Batch rows of a run that reads and of one that does not; None: any number."""
        num_slots, reader = self.info.num_slots, self.reader
        if self._decoder.shapes is None:
            return (None, None) if self._has_batch_index else (num_slots, num_slots)
        encoder_rows = 1 if self._has_batch_index else num_slots
        sizes = {(shape[reader.name][0], shape[reader.name][reader.time_axis]) for shape in self._decoder.shapes}
        expected = {(encoder_rows, reader.longest), (num_slots, reader.idle_len)}
        if sizes != expected:
            fault = f"it takes encoder inputs of {sorted(sizes)}, expected {sorted(expected)}"
            raise not_as_described(self._decoder, fault)
        return encoder_rows, num_slots

    def check(self, item: np.ndarray, index: int = 0) -> None:
        """Check what the encoder would read: see :meth:`Reader.check`."""
        self.reader.check(item, index, self._has_static_shapes)

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.session.Session`."""
        check_chunks(chunks, self.info)
        for chunk in chunks:
            if not chunk.start:
                self._source_lens[chunk.slot] = len(self._read_by(chunk))
        wanted = [index for index, chunk in enumerate(chunks) if chunk.num_logits]
        logits = np.empty((len(chunks), self.info.vocab_size), np.float32)
        for group in self._groups(chunks):
            logits[group] = self._run([chunks[index] for index in group])
        return logits[wanted]

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Indices of the chunks that run together: those with an encoder input, and the others."""
        readers = [index for index, chunk in enumerate(chunks) if len(self._read_by(chunk))]
        others = [index for index, chunk in enumerate(chunks) if not len(self._read_by(chunk))]
        apart = [readers]
        if self.reader.why_not_padded is not None:
            lengths = sorted({len(self._read_by(chunks[index])) for index in readers})
            apart = [[index for index in readers if len(self._read_by(chunks[index])) == length] for length in lengths]
        groups = [part for together in apart for part in _parts(together, self._encoder_rows)]
        return groups + _parts(others, self._decode_rows)

    def _run(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Logits ``[n, vocab]``."""
        num_rows = self._encoder_rows if len(self._read_by(chunks[0])) else self._decode_rows
        slots = self._slots([chunk.slot for chunk in chunks], num_rows)
        rows = [slots.index(chunk.slot) for chunk in chunks]
        packed = ((row, chunk.tokens, chunk.start) for row, chunk in zip(rows, chunks, strict=True))
        inputs = pack_tokens(packed, len(slots), max(len(chunk.tokens) for chunk in chunks))
        if self.reader.has_lens:
            inputs[LENS] = self._source_lens[slots][:, None]
        inputs |= self._read(chunks, rows, len(slots))
        if self._has_batch_index:
            inputs[_ROW_INPUT] = np.array(slots, np.int64)[:, None]
        logits = self._decoder.run(inputs, ["logits"])["logits"]
        return logits[rows, -1].astype(np.float32, copy=False)

    def _read(self, chunks: Sequence[Chunk], rows: Sequence[int], batch_size: int) -> dict[str, np.ndarray]:
        """What the decoder's program takes of the encoder's input; of later chunks something that it does not keep."""
        reader = self.reader
        reads = bool(len(self._read_by(chunks[0])))
        if not reads and self._encoder is not None:
            return {HIDDEN: np.zeros((batch_size, 1, self._hidden_size), np.float32)}
        items = [_NOTHING] * batch_size
        for row, chunk in zip(rows, chunks, strict=True):
            items[row] = self._read_by(chunk)
        inputs = {reader.name: reader.pack(items, self._source_len(chunks))}
        if self._encoder is None:
            return inputs
        lens = np.array([[max(len(item), reader.idle_len)] for item in items], np.int64)
        outputs = self._encoder.run(inputs | ({LENS: lens} if reader.has_lens else {}))
        return {HIDDEN: outputs[HIDDEN]}

    def _read_by(self, chunk: Chunk) -> np.ndarray:
        """What the encoder reads for a chunk; nothing after the first of a sequence."""
        return chunk.inputs.get(self.reader.name, _NOTHING)

    def _slots(self, used: list[int], num_rows: int | None) -> list[int]:
        """The state's row of each batch row of a run; those behind the used ones idle."""
        if not self._has_batch_index:
            return [*range(self.info.num_slots)]
        idle = sorted({*range(self.info.num_slots)} - {*used})
        return [*used, *idle[: (num_rows or len(used)) - len(used)]]

    def _source_len(self, chunks: Sequence[Chunk]) -> int:
        """Length that the encoder's input of a run is padded to."""
        if not len(self._read_by(chunks[0])):
            return self.reader.idle_len
        if self._has_static_shapes:
            return self.reader.longest
        return max(len(self._read_by(chunk)) for chunk in chunks)

    def close(self) -> None:
        """Release memory and devices; the session cannot run afterwards."""
        self._decoder.close()
        if self._encoder is not None:
            self._encoder.close()


_NOTHING = np.zeros(0, np.int64)


def _parts(indices: list[int], size: int | None) -> list[list[int]]:
    size = size or max(len(indices), 1)
    return [indices[begin : begin + size] for begin in range(0, len(indices), size)]
