"""Assigns the tokens of a step to the compiled shapes of a program. Handles counts only, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from QEfficient.errors import LifecycleError
from QEfficient.generation.media import NOTHING, PromptMedia
from QEfficient.generation.sessions.session import Chunk


@dataclass(frozen=True, slots=True)
class Bucket:
    """One size of a run, with the context lengths that it was compiled for."""

    seq_len: int
    batch_size: int
    num_logits: int
    """Rows of logits of each sequence; the last is the newest token's."""
    ctx_lens: tuple[int, ...]
    """Ascending."""

    def takes(self, start: int, most: int) -> int:
        """How many of ``most`` tokens from position ``start`` on one run takes; 0 where its context ends before."""
        return max(0, min(most, self.seq_len, self.ctx_lens[-1] - start))

    def ctx_len(self, num_positions: int) -> int:
        """The smallest context that holds so many positions."""
        return next(length for length in self.ctx_lens if length >= num_positions)


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a chunk that one run takes."""

    index: int
    """The chunk's place in the step."""
    slot: int
    tokens: Sequence[int]
    start: int
    num_logits: int
    media: PromptMedia = NOTHING
    adapter: int = 0
    prefill_len: int = 0


Run = tuple[Bucket, list[Piece]]


def plan(chunks: Sequence[Chunk], buckets: Sequence[Bucket], *, picks_rows: bool) -> list[Run]:
    """The runs of a step, in order.

    Args:
        chunks: of distinct slots, with at least one token each.
        buckets: what was compiled.
        picks_rows: whether a run takes any slots, as many as it has rows (continuous batching); else row i is slot i,
            and a run has them all.

    Raises:
        LifecycleError: no bucket reaches a position, or none gives so many logits.
    """
    runs: list[Run] = []
    done = [0] * len(chunks)
    # Each chunk gives one piece per round: the pieces of a chunk run in order, together with those of other chunks.
    while waiting := [index for index, chunk in enumerate(chunks) if done[index] < len(chunk.tokens)]:
        groups: dict[Bucket, list[Piece]] = {}
        for index in waiting:
            bucket, piece = _next_piece(index, chunks[index], done[index], buckets)
            groups.setdefault(bucket, []).append(piece)
            done[index] += len(piece.tokens)
        for bucket, pieces in groups.items():
            size = bucket.batch_size if picks_rows else len(pieces)
            runs += [(bucket, pieces[begin : begin + size]) for begin in range(0, len(pieces), size)]
    return runs


def _next_piece(index: int, chunk: Chunk, done: int, buckets: Sequence[Bucket]) -> tuple[Bucket, Piece]:
    """The next piece of a chunk, and its bucket: the one that takes the most tokens, of several the shortest."""
    start, left = chunk.start + done, len(chunk.tokens) - done
    bucket = max(buckets, key=lambda bucket: (bucket.takes(start, left), -bucket.seq_len))
    count = bucket.takes(start, left)
    if not count:
        reach = ", ".join(f"{bucket.ctx_lens[-1]} with {bucket.seq_len} token(s) per run" for bucket in buckets)
        raise LifecycleError(
            f"Position {start} of slot {chunk.slot} is beyond the contexts that were compiled: {reach}. Compile with "
            "comp_ctx_lengths_prefill and comp_ctx_lengths_decode up to ctx_len, and without prefill_only."
        )
    num_logits = chunk.num_logits if count == left else 0
    if num_logits > min(count, bucket.num_logits):
        raise LifecycleError(
            f"Slot {chunk.slot}: the logits of {num_logits} tokens up to position {start + count - 1} come from no one "
            f"run: the compiled shape for them returns those of {min(count, bucket.num_logits)}. Ask for fewer."
        )
    tokens = chunk.tokens[done : done + count]
    more = (chunk.media, chunk.adapter, chunk.prefill_len)
    return bucket, Piece(index, chunk.slot, tokens, start, num_logits, *more)
