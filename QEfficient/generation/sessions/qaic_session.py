"""Sessions on Cloud AI 100 and on its simulator: what the engine asks, as runs of the compiled shapes.

A step's chunks go to the smallest compiled shape that takes them: a prompt's to that of ``prefill_seq_len`` tokens,
one token's to that of one. Where only one of the two was compiled, it does the other's work too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.compile.cloud_ai_100 import sdk_of
from QEfficient.errors import CapacityError, CorruptArtifact, OptionError
from QEfficient.generation.cloud_infer import QAICInferenceSession, Shape
from QEfficient.generation.qaic_program import TIMEOUT_VARIABLE
from QEfficient.generation.sessions.encoder_session import EncoderRunner
from QEfficient.generation.sessions.qaic_buckets import Bucket, Piece, plan
from QEfficient.generation.sessions.seq2seq_session import Seq2SeqSession
from QEfficient.generation.sessions.session import Chunk, Session, SessionInfo
from QEfficient.targets import TARGETS

logger = logging.getLogger(__name__)

_CTX_INPUT, _KEEP_INPUT, _ROW_INPUT = "comp_ctx_lengths", "num_logits_to_keep", "batch_index"
_BY_POSITION = ("past_key.", "past_value.")
"""State with a place for each position, or for each of a window, on its third axis."""
_INPUTS = frozenset({"input_ids", "position_ids", _ROW_INPUT, _CTX_INPUT, _KEEP_INPUT})
_SEQ2SEQ_INPUTS = frozenset({"input_ids", "position_ids", "encoder_input_ids", "encoder_lens"})


def open_session(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None = None) -> Session:
    """The session of a causal LM's package.

    Args:
        folder: the package.
        body: its manifest's. ``num_devices``, if it is there, says how many devices the program is for.
        device_ids: QIDs of the devices; None: those that come first.

    Raises:
        TargetUnavailable: the target's runtime or its cards are not here.
        CapacityError: the devices have no room.
        CorruptArtifact: the program is damaged, or is not what ``body`` says.
        OptionError: QEFF_DATA_PATH_TIMEOUT_MS is no number of milliseconds.
    """
    session = _open(folder, body, device_ids)
    try:
        return QaicSession(session, SessionInfo(**body["session"]))
    except BaseException:
        session.close()
        raise


def open_encoder(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None = None) -> EncoderRunner:
    """What runs an encoder's package. Arguments and errors as of :func:`open_session`."""
    session = _open(folder, body, device_ids)
    try:
        return QaicEncoder(session, body["batch_size"], body["seq_lens"])
    except BaseException:
        session.close()
        raise


def open_seq2seq(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None = None) -> Seq2SeqSession:
    """The session of a text-to-text model's package. Arguments and errors as of :func:`open_session`."""
    session = _open(folder, body, device_ids)
    try:
        return Seq2SeqSession(QaicSeq2Seq(session, body["session"]["num_slots"], body["encoder_ctx_len"]), body)
    except BaseException:
        session.close()
        raise


def layer_outputs(folder: Path, body: Mapping[str, Any], ids: list[int]) -> list[np.ndarray]:
    """Nothing: a compiled program gives no inner values."""
    return []


def _open(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None) -> QAICInferenceSession:
    text = os.environ.get(TIMEOUT_VARIABLE, "60000")
    if not text.isdecimal() or not int(text):
        raise OptionError(f"{TIMEOUT_VARIABLE} must be a whole number of milliseconds, got {text!r}.")
    if device_ids is None and body.get("num_devices", 1) > 1:
        device_ids = range(body["num_devices"])
    sdk = sdk_of(TARGETS[body["target"]])
    session = QAICInferenceSession(folder, device_ids, data_path_timeout_ms=int(text), sdk=sdk)
    session.skip_buffers(session.state_names)
    return session


class QaicSession:
    """A causal LM's program with its state, see :class:`QEfficient.generation.sessions.session.Session`."""

    def __init__(self, session: QAICInferenceSession, info: SessionInfo):
        """
        Args:
            session: active, with the state's buffers skipped. It is closed with this one.
            info: what the package says that the program takes.

        Raises:
            CorruptArtifact: the program's shapes are not those of ``info``.
        """
        self.info = info
        self._session = session
        self._inputs = frozenset(session.input_names) - {*session.state_names}
        self._picks_rows = _ROW_INPUT in self._inputs
        _check_names(session, _INPUTS, {"input_ids", "position_ids"}, "logits")
        shapes = session.specializations
        rows = {shape[name][:1] for shape in shapes for name in session.state_names}
        self._num_rows = rows.pop()[0] if len(rows) == 1 else 0
        fault = next((fault for shape in shapes if (fault := self._fault(shape))), None)
        if fault is not None:
            raise CorruptArtifact(
                f"The program in {session.qpc_path} is not what its package says: {fault}. Compile the model again."
            )
        self._buckets = self._read_buckets(shapes)
        self._may_skip_logits = session.bindings[session.binding_index_map["logits"]].is_partial_buf_allowed
        self._has_noted = False

    def _fault(self, shape: Mapping[str, Shape]) -> str | None:
        """Why one of the program's shapes is not that of a package with ``self.info``."""
        info, size, logits = self.info, shape["input_ids"], shape["logits"]
        if len(size) != 2 or shape["position_ids"] != size or shape.get(_ROW_INPUT, (size[0], 1)) != (size[0], 1):
            return f"input_ids {size}, position_ids {shape['position_ids']} and batch_index do not fit together"
        if logits[::2] != (size[0], info.vocab_size) or len(logits) != 3:
            return f"logits are {logits}, expected ({size[0]}, 1, {info.vocab_size})"
        if size[1] not in (1, info.chunk_len) and logits[1] == 1:
            return f"input_ids are {size}, expected a length of 1 or {info.chunk_len}"
        if self._num_rows < info.num_slots or size[0] > self._num_rows:
            return f"{self._num_rows} rows of state for batches of {size[0]}, expected at least {info.num_slots}"
        if not self._picks_rows and not size[0] == self._num_rows == info.num_slots:
            return f"batches of {size[0]} over {self._num_rows} rows of state, expected {info.num_slots}"
        state = [shape[name] for name in self._session.state_names if name.startswith(_BY_POSITION)]
        if max([*(own[2] for own in state if len(own) == 4), *shape.get(_CTX_INPUT, ())], default=0) > info.ctx_len:
            return f"its contexts are longer than ctx_len={info.ctx_len}"
        return None

    def _read_buckets(self, shapes: Sequence[Mapping[str, Shape]]) -> list[Bucket]:
        """Of equal lengths that with the most rows first, so that it is taken."""
        found: dict[tuple[int, int, int], list[int]] = {}
        for shape in shapes:
            (batch_size, seq_len), num_logits = shape["input_ids"], shape["logits"][1]
            (ctx_len,) = shape.get(_CTX_INPUT, (self.info.ctx_len,))
            found.setdefault((batch_size, seq_len, num_logits), []).append(ctx_len)
        order = sorted(found, reverse=True)
        return [Bucket(seq, batch, keep, tuple(sorted(found[batch, seq, keep]))) for batch, seq, keep in order]

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Run the chunks, prompts and answers in any mix.

        Returns:
            Logits float32 ``[n, vocab]`` for the n chunks that want them, in their order. Valid until the next step.

        Raises:
            CapacityError: a slot or a position that was not compiled.
            LifecycleError: no compiled shape reaches a position, or the session is closed; says what to compile.
        """
        self._check_chunks(chunks)
        used = {chunk.slot for chunk in chunks}
        runs = plan(chunks, self._buckets, picks_rows=self._picks_rows)
        self._note_makeshift(chunks)
        results = [self._run(bucket, pieces, used) for bucket, pieces in runs]
        if len(results) == 1:
            return results[0]
        wanted = [piece.index for _, pieces in runs for piece in pieces if piece.wants_logits]
        logits = np.concatenate([np.empty((0, self.info.vocab_size), np.float32), *results])
        return logits[np.argsort(wanted)]

    def _check_chunks(self, chunks: Sequence[Chunk]) -> None:
        if len({chunk.slot for chunk in chunks}) < len(chunks):
            raise OptionError(f"A step takes each slot once, got {[chunk.slot for chunk in chunks]}.")
        for chunk in chunks:
            end = chunk.start + len(chunk.tokens)
            if not 0 <= chunk.slot < self._num_rows:
                raise CapacityError(
                    f"There is no slot {chunk.slot}: the program keeps {self._num_rows}, 0 to {self._num_rows - 1}. "
                    "Compile with a greater kv_cache_batch_size."
                )
            if not chunk.tokens or chunk.start < 0 or end > self.info.ctx_len:
                raise CapacityError(
                    f"Slot {chunk.slot}: tokens {chunk.start} to {end - 1} do not fit ctx_len={self.info.ctx_len}. "
                    "Compile with a greater ctx_len, or shorten the prompt."
                )

    def _note_makeshift(self, chunks: Sequence[Chunk]) -> None:
        """Say once that a shape does the work of one that was not compiled."""
        lens = {bucket.seq_len for bucket in self._buckets}
        slow = ""
        if lens == {1} and any(len(chunk.tokens) > 1 for chunk in chunks):
            slow = "prompts"
        elif lens == {self.info.chunk_len} and any(len(chunk.tokens) == 1 and chunk.start for chunk in chunks):
            slow = "answers"
        if slow and self.info.chunk_len > 1 and not self._has_noted:
            self._has_noted = True
            logger.warning(
                "The program takes %d token(s) a run and nothing else, so that %s are slow: compile without "
                "prefill_only.",
                max(lens),
                slow,
            )

    def _run(self, bucket: Bucket, pieces: Sequence[Piece], used: set[int]) -> np.ndarray:
        """One run: logits ``[n, vocab]`` of the pieces that want them."""
        rows = [*range(len(pieces))] if self._picks_rows else [piece.slot for piece in pieces]
        ids = np.zeros((bucket.batch_size, bucket.seq_len), np.int64)
        positions = np.full_like(ids, -1)
        for row, piece in zip(rows, pieces, strict=True):
            count = len(piece.tokens)
            ids[row, :count] = piece.tokens
            positions[row, :count] = np.arange(piece.start, piece.start + count)
        inputs = {"input_ids": ids, "position_ids": positions, **self._sizes(bucket, int(positions.max()) + 1)}
        if self._picks_rows:
            inputs[_ROW_INPUT] = self._state_rows(bucket, pieces, used)
        wanted = [row for row, piece in zip(rows, pieces, strict=True) if piece.wants_logits]
        if not wanted and self._may_skip_logits:
            self._session.skip_buffers(["logits"])
            self._session.run(inputs)
            return np.empty((0, self.info.vocab_size), np.float32)
        self._session.reset_buffers(["logits"])
        newest = self._session.run(inputs)["logits"][:, -1]
        is_front = wanted == [*range(len(wanted))]
        return (newest[: len(wanted)] if is_front else newest[wanted]).astype(np.float32, copy=False)

    def _sizes(self, bucket: Bucket, num_positions: int) -> dict[str, np.ndarray]:
        """The inputs of which only the length counts."""
        sizes = {}
        if _CTX_INPUT in self._inputs:
            sizes[_CTX_INPUT] = np.zeros(bucket.ctx_len(num_positions), np.int64)
        if _KEEP_INPUT in self._inputs:
            sizes[_KEEP_INPUT] = np.zeros((bucket.num_logits, 1), np.int64)
        return sizes

    def _state_rows(self, bucket: Bucket, pieces: Sequence[Piece], used: set[int]) -> np.ndarray:
        """``batch_index``: idle rows point where no chunk of the step is, or at least none of this run."""
        own = [piece.slot for piece in pieces]
        others = sorted({*range(self._num_rows)} - {*own}, key=lambda row: (row in used, row))
        return np.array([*own, *others[: bucket.batch_size - len(own)]], np.int64)[:, None]

    def close(self) -> None:
        """Give the card's cores and memory back; the session cannot run after it."""
        self._session.close()


class QaicEncoder:
    """An encoder's or a classifier's program.

    See :class:`QEfficient.generation.sessions.encoder_session.EncoderRunner`.
    """

    has_static_shapes = True

    def __init__(self, session: QAICInferenceSession, batch_size: int, seq_lens: Sequence[int]):
        """
        Raises:
            CorruptArtifact: the program was not compiled for ``[batch_size, each of seq_lens]``.
        """
        self._session, self._batch_size = session, batch_size
        self._output: str = session.output_names[0] if len(session.output_names) == 1 else "output"
        needed = {"input_ids", "attention_mask"}
        _check_names(session, needed | {"token_type_ids"}, needed, self._output)
        found = {shape["input_ids"] for shape in session.specializations}
        if found != {(batch_size, length) for length in seq_lens}:
            raise CorruptArtifact(
                f"The program in {session.qpc_path} is not what its package says: it takes {sorted(found)}, expected "
                f"batch_size={batch_size} and seq_lens={list(seq_lens)}. Compile the model again."
            )

    def run(self, ids: np.ndarray, mask: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """Token ids, mask and segments ``[n, seq_len]``, n up to the compiled batch, to float32 ``[n, ...]``.

        Raises:
            CapacityError: more texts than the compiled batch has rows.
            OptionError: a length that was not compiled.
        """
        count = len(ids)
        if count > self._batch_size:
            raise CapacityError(
                f"{count} texts in one run, compiled were {self._batch_size}: use a greater batch_size."
            )
        given = {"input_ids": ids, "attention_mask": mask}
        if segments is not None:
            given["token_type_ids"] = segments
        # Idle rows repeat the first text: one of no token has no mean and no softmax.
        rows = [*range(count), *[0] * (self._batch_size - count)]
        inputs = {name: np.ascontiguousarray(np.asarray(array, np.int64)[rows]) for name, array in given.items()}
        output = self._session.run(inputs)[self._output]
        return output[:count].astype(np.float32, copy=False)

    def close(self) -> None:
        """Give the card's cores and memory back; it cannot run after it."""
        self._session.close()


class QaicSeq2Seq:
    """A text-to-text model's program, see :class:`QEfficient.generation.sessions.seq2seq_session.Seq2SeqRunner`."""

    has_static_shapes = True

    def __init__(self, session: QAICInferenceSession, num_slots: int, encoder_ctx_len: int):
        """
        Raises:
            CorruptArtifact: the program was not compiled for texts of ``encoder_ctx_len`` and ``num_slots`` answers.
        """
        self._session = session
        _check_names(session, _SEQ2SEQ_INPUTS | {_ROW_INPUT}, {*_SEQ2SEQ_INPUTS}, "logits")
        self.takes_rows = _ROW_INPUT in session.input_names
        found = {shape["encoder_input_ids"] for shape in session.specializations}
        self.encoder_rows: int | None = 1 if self.takes_rows else num_slots
        self.decode_rows: int | None = num_slots
        expected = {(self.encoder_rows, encoder_ctx_len), (num_slots, 1)}
        if found != expected:
            raise CorruptArtifact(
                f"The program in {session.qpc_path} is not what its package says: it takes texts of {sorted(found)}, "
                f"expected {sorted(expected)}. Compile the model again."
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._session.run(dict(inputs))["logits"][:, -1].astype(np.float32, copy=False)

    def close(self) -> None:
        """Give the card's cores and memory back; it cannot run after it."""
        self._session.close()


def _check_names(
    session: QAICInferenceSession, known: frozenset[str] | set[str], needed: set[str], output: str
) -> None:
    inputs = {*session.input_names} - {*session.state_names}
    outputs = {*session.output_names} - {*session.state_names}
    if not needed <= inputs <= known or output not in outputs:
        raise CorruptArtifact(
            f"The program in {session.qpc_path} is not what its package says: beside its state it takes "
            f"{', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}; expected {', '.join(sorted(needed))} "
            f"and {output}. Compile the model again."
        )
