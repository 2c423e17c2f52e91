"""Causal LMs over a program with retained state: what the engine asks, as runs of the program.

Where a program has compiled shapes, a step's chunks go to the smallest that takes them: a prompt's to that of
``prefill_seq_len`` tokens, one token's to that of one. Where only one of the two was compiled, it does the other's
work too. A program of any shape takes a step in one run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from QEfficient.contract import DEEPSTACK, FEATURES, LORA_IDS, ROPE_LENS
from QEfficient.errors import CorruptArtifact
from QEfficient.generation.cross_media import CrossPacker
from QEfficient.generation.media import MediaPacker, Part
from QEfficient.generation.programs.program import Program, Shape
from QEfficient.generation.programs.recording import RecordedProgram, Recorder
from QEfficient.generation.sessions.buckets import Bucket, Piece, plan
from QEfficient.generation.sessions.packing import pack_tokens
from QEfficient.generation.sessions.session import Chunk, SessionInfo, check_chunks

logger = logging.getLogger(__name__)

_CTX_INPUT, _KEEP_INPUT, _ROW_INPUT = "comp_ctx_lengths", "num_logits_to_keep", "batch_index"
_STATE_BY_POSITION = ("past_key.", "past_value.")
"""State with a place for each position, or for each of a window, on its third axis."""
_REQUIRED = frozenset({"input_ids", "position_ids"})
_OPTIONAL = frozenset({_ROW_INPUT, _CTX_INPUT, _KEEP_INPUT, LORA_IDS, ROPE_LENS})


class RetainedSession:
    """See :class:`QEfficient.generation.sessions.session.Session`."""

    def __init__(
        self,
        program: Program,
        info: SessionInfo,
        state_rows: int | None = None,
        packer: MediaPacker | CrossPacker | None = None,
        supplied: frozenset[str] = frozenset(),
    ):
        """
        Args:
            program: closed with the session.
            info: the sizes that the package declares.
            state_rows: rows of state, if the program does not declare them; None: ``info.num_slots``.
            packer: of media, where the program takes them.
            supplied: inputs that :meth:`supply` gives.

        Raises:
            CorruptArtifact: the program's names or shapes are not those of ``info``.
        """
        self.info = info
        self._program: Program = program
        self._has_batch_index = _ROW_INPUT in program.inputs
        self._packer = packer
        required = _REQUIRED
        if packer is not None:
            required |= packer.names(counts_rows=program.shapes is not None)
        check_names(program, required, _OPTIONAL | supplied, "logits")
        self._media_sizes = {} if packer is None else _media_sizes(program.shapes or ())
        self._num_rows = state_rows or info.num_slots
        self._buckets = None if program.shapes is None else self._read_buckets(program.shapes)
        self.info = replace(info, max_num_logits=max((bucket.num_logits for bucket in self._buckets or ()), default=1))
        self._has_warned = False

    def _read_buckets(self, shapes: Sequence[Mapping[str, Shape]]) -> list[Bucket]:
        """The compiled shapes; those of one length with the most rows first, so that they are preferred."""
        rows = {shape[name][0] for shape in shapes for name in shape if name.startswith(_STATE_BY_POSITION)}
        self._num_rows = rows.pop() if len(rows) == 1 else self._num_rows
        for shape in shapes:
            if (fault := self._fault(shape)) is not None:
                raise not_as_described(self._program, fault)
        ctx_lens: dict[tuple[int, int, int], list[int]] = {}
        for shape in shapes:
            (batch_size, seq_len), num_logits = shape["input_ids"], shape["logits"][1]
            (ctx_len,) = shape.get(_CTX_INPUT, (self.info.ctx_len,))
            ctx_lens.setdefault((batch_size, seq_len, num_logits), []).append(ctx_len)
        order = sorted(ctx_lens, reverse=True)
        return [Bucket(seq, batch, keep, tuple(sorted(ctx_lens[batch, seq, keep]))) for batch, seq, keep in order]

    def _fault(self, shape: Mapping[str, Shape]) -> str | None:
        """Why one of the program's shapes is not that of a package with ``self.info``."""
        info, size, logits = self.info, shape["input_ids"], shape["logits"]
        if len(size) != 2 or shape["position_ids"][-2:] != size or shape.get(_ROW_INPUT, (size[0], 1)) != (size[0], 1):
            return f"input_ids {size}, position_ids {shape['position_ids']} and batch_index do not fit together"
        if logits[::2] != (size[0], info.vocab_size) or len(logits) != 3:
            return f"logits are {logits}, expected ({size[0]}, 1, {info.vocab_size})"
        if size[1] not in (1, info.chunk_len) and logits[1] == 1:
            return f"input_ids are {size}, expected a length of 1 or {info.chunk_len}"
        if self._num_rows < info.num_slots or size[0] > self._num_rows:
            return f"{self._num_rows} rows of state for batches of {size[0]}, expected at least {info.num_slots}"
        if not self._has_batch_index and not size[0] == self._num_rows == info.num_slots:
            return f"batches of {size[0]} over {self._num_rows} rows of state, expected {info.num_slots}"
        state = [dims for name, dims in shape.items() if name.startswith(_STATE_BY_POSITION)]
        if max([*(dims[2] for dims in state if len(dims) == 4), *shape.get(_CTX_INPUT, ())], default=0) > info.ctx_len:
            return f"its contexts are longer than ctx_len={info.ctx_len}"
        return None

    def record(self, recorder: Recorder | None) -> None:
        """Write all runs from now on; None: no more."""
        program = self._program.program if isinstance(self._program, RecordedProgram) else self._program
        self._program = program if recorder is None else RecordedProgram(program, recorder)

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Run the chunks, prompts and answers in any mix.

        Returns:
            Logits float32 ``[n, vocab]`` for the n chunks that want them, in their order. Valid until the next step.

        Raises:
            CapacityError: a slot or a position beyond what the program holds.
            LifecycleError: no compiled shape reaches a position, or the session is closed; says what to compile.
        """
        check_chunks(chunks, self.info, self._num_rows)
        if not chunks:
            return np.empty((0, self.info.vocab_size), np.float32)
        runs = self._plan(chunks)
        slots = {chunk.slot for chunk in chunks}
        results = [self._run(bucket, pieces, slots) for bucket, pieces in runs]
        if len(results) == 1:
            return results[0]
        owners = [piece.index for _, pieces in runs for piece in pieces for _ in range(piece.num_logits)]
        logits = np.concatenate([np.empty((0, self.info.vocab_size), np.float32), *results])
        return logits[np.argsort(owners, kind="stable")]

    def outputs(self, names: Sequence[str], chunk: Chunk) -> list[np.ndarray]:
        """Inner values ``[tokens, ...]`` of a chunk that runs alone, for programs that were opened with them."""
        check_chunks([chunk], self.info, self._num_rows)
        ((bucket, pieces),) = self._plan([chunk])
        values = self._program.run(self._inputs(bucket, pieces, {chunk.slot}), names)
        return [np.array(values[name]) for name in names]

    def _plan(self, chunks: Sequence[Chunk]) -> list[tuple[Bucket, list[Piece]]]:
        if self._buckets is not None:
            self._warn_of_makeshift(chunks, self._buckets)
            return plan(chunks, self._buckets, picks_rows=self._has_batch_index)
        batch_size = len(chunks) if self._has_batch_index else self.info.num_slots
        bucket = Bucket(max(len(chunk.tokens) for chunk in chunks), batch_size, 1, (self.info.ctx_len,))
        pieces = [
            Piece(i, c.slot, c.tokens, c.start, c.num_logits, c.media, c.adapter, c.prefill_len)
            for i, c in enumerate(chunks)
        ]
        return [(bucket, pieces)]

    def _warn_of_makeshift(self, chunks: Sequence[Chunk], buckets: Sequence[Bucket]) -> None:
        """Say once that a shape does the work of one that was not compiled."""
        lens = {bucket.seq_len for bucket in buckets}
        slow = ""
        if lens == {1} and any(len(chunk.tokens) > 1 for chunk in chunks):
            slow = "prompts"
        elif lens == {self.info.chunk_len} and any(len(chunk.tokens) == 1 and chunk.start for chunk in chunks):
            slow = "answers"
        if slow and self.info.chunk_len > 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The program only takes %d token(s) per run, so that %s are slow: compile without prefill_only.",
                max(lens),
                slow,
            )

    def _run(self, bucket: Bucket, pieces: Sequence[Piece], slots: set[int]) -> np.ndarray:
        """One run: logits ``[n, vocab]``, ``num_logits`` rows of each piece."""
        inputs = self._inputs(bucket, pieces, slots)
        wanted = [(row, piece.num_logits) for row, piece in zip(self._rows(pieces), pieces, strict=True)]
        rows = [row for row, count in wanted if count]
        if not rows:
            self._program.run(inputs, [])
            return np.empty((0, self.info.vocab_size), np.float32)
        logits = self._program.run(inputs, ["logits"])["logits"]
        if any(count > 1 for _, count in wanted):
            return np.concatenate([logits[row, -count:] for row, count in wanted if count]).astype(np.float32)
        newest = logits[:, -1]
        is_front = rows == [*range(len(rows))]
        return (newest[: len(rows)] if is_front else newest[rows]).astype(np.float32, copy=False)

    def _rows(self, pieces: Sequence[Piece]) -> Sequence[int]:
        return range(len(pieces)) if self._has_batch_index else [piece.slot for piece in pieces]

    def _inputs(self, bucket: Bucket, pieces: Sequence[Piece], slots: set[int]) -> dict[str, np.ndarray]:
        rows = self._rows(pieces)
        packed = ((row, piece.tokens, piece.start) for row, piece in zip(rows, pieces, strict=True))
        inputs = pack_tokens(packed, bucket.batch_size, bucket.seq_len)
        if _CTX_INPUT in self._program.inputs:
            num_positions = max(piece.start + len(piece.tokens) for piece in pieces)
            inputs[_CTX_INPUT] = np.zeros(bucket.ctx_len(num_positions), np.int64)
        if _KEEP_INPUT in self._program.inputs:
            inputs[_KEEP_INPUT] = np.zeros((bucket.num_logits, 1), np.int64)
        if LORA_IDS in self._program.inputs:
            ids = inputs[LORA_IDS] = np.zeros((bucket.batch_size, 1), np.int64)
            ids[list(rows), 0] = [piece.adapter for piece in pieces]
        if ROPE_LENS in self._program.inputs:
            lens = inputs[ROPE_LENS] = inputs["position_ids"] + 1
            for row, piece in zip(rows, pieces, strict=True):
                lens[row] = np.maximum(lens[row], piece.prefill_len)
        if self._has_batch_index:
            inputs[_ROW_INPUT] = self._batch_index(bucket, pieces, slots)
        if self._packer is not None:
            parts = [Part(r, p.media, p.start, len(p.tokens)) for r, p in zip(rows, pieces, strict=True)]
            positions = inputs["position_ids"]
            inputs |= self._packer.rows(parts, positions, self._media_sizes.get(positions.shape))
        return inputs

    def _batch_index(self, bucket: Bucket, pieces: Sequence[Piece], slots: set[int]) -> np.ndarray:
        """``[batch_size, 1]``; idle rows point where no chunk of the step is, or at least none of this run."""
        used = [piece.slot for piece in pieces]
        idle: list[int] = []
        if bucket.batch_size > len(used):
            idle = sorted({*range(self._num_rows)} - {*used}, key=lambda row: (row in slots, row))
        return np.array([*used, *idle[: bucket.batch_size - len(used)]], np.int64)[:, None]

    def supply(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Give inputs that stay as they are from step to step, in float32; the next step has them."""
        self._program.keep(inputs)

    def close(self) -> None:
        """Release memory and devices; the session cannot run afterwards."""
        self._program.close()


def _media_sizes(shapes: Sequence[Mapping[str, Shape]]) -> dict[Shape, tuple[int, int]]:
    """Sets of features and rows of a set, by the shape of ``input_ids``."""
    sizes = {}
    for shape in shapes:
        features = shape.get(FEATURES) or shape[DEEPSTACK][1:]
        sizes[shape["input_ids"]] = (features[0], features[1])
    return sizes


def check_names(program: Program, required: frozenset[str], optional: frozenset[str], output: str) -> None:
    """
    Raises:
        CorruptArtifact: the program's inputs and outputs are not those of its task.
    """
    if not required <= program.inputs <= required | optional or output not in program.outputs:
        raise not_as_described(
            program,
            f"beside its state it takes {', '.join(sorted(program.inputs))} and gives "
            f"{', '.join(sorted(program.outputs))}; expected {', '.join(sorted(required))} and {output}",
        )


def not_as_described(program: Program, fault: str) -> CorruptArtifact:
    """The error for a program that does not match its package."""
    return CorruptArtifact(
        f"The program in {program.name} is not what its package says: {fault}. Compile the model again."
    )
