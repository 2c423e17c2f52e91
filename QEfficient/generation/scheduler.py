"""Chooses the tokens of the next step. Handles counts only, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Row
from dataclasses import dataclass, field

import numpy as np

from QEfficient.generation.blocks import BlockPool
from QEfficient.generation.media import NOTHING, PromptMedia
from QEfficient.generation.sessions.session import Chunk, SessionInfo


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of a request, and how far it has run."""

    request_id: int
    tokens: list[int]
    """Prompt and answer so far."""
    max_len: int
    """Maximum tokens of prompt and answer; blocks are reserved for as many."""
    num_cached: int = 0
    """Tokens that the session's state already holds."""
    slot: int = -1
    block_ids: Row[int] = ()
    """Its KV blocks, where the session pages."""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, which go with the first chunk."""
    media: PromptMedia = NOTHING
    """The prompt's images, videos and audio."""
    adapter: int = 0
    """The number of its adapter; 0 is the base model."""
    prompt_len: int = field(init=False)
    prefill_len: int = field(init=False)
    """Tokens that it had when its first one was run last."""

    def __post_init__(self) -> None:
        self.prompt_len = self.prefill_len = len(self.tokens)

    @property
    def num_pending(self) -> int:
        """Tokens that the session has not seen."""
        return len(self.tokens) - self.num_cached

    def restart_beyond(self, length: int | None) -> None:
        """Run all tokens anew once there are more than ``length``; None: never."""
        if length is not None and self.prefill_len <= length < len(self.tokens):
            self.num_cached, self.prefill_len = 0, len(self.tokens)


Step = list[tuple[Sequence, Chunk]]


class Scheduler:
    """Sequences wait for a slot and for blocks, keep them until they are done, and share every step.

    They are admitted in order of arrival: a large one is not overtaken. A sequence gets the blocks for its longest
    answer at once, so that it never runs out of them later.

    A ragged session takes one token of each running answer first and fills the step with prompt tokens, for which a
    part of it is always left. Otherwise steps of prompts and steps of answers alternate, as long as there are both.
    """

    def __init__(self, info: SessionInfo):
        self.info = info
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.blocks = BlockPool(info.num_blocks, info.block_len) if info.num_blocks and info.block_len else None
        self._free_slots: list[int] = []
        self._min_prompt_budget = -(-info.chunk_len // 4)
        self._took_prompts = False
        self.repair()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    @property
    def is_done(self) -> bool:
        """Whether no sequence is left."""
        return not self.waiting and not self.running

    def schedule(self) -> Step:
        """The next step. At least one token goes into it unless everything is done."""
        while self.waiting and self._free_slots and self._reserve(self.waiting[0]):
            # It is in at least one of the two at any time, so that an interrupt does not lose it.
            self.running.append(self.waiting[0])
            self.waiting.popleft()
        for sequence in self.running:
            sequence.restart_beyond(self.info.restart_len)
        return self._ragged() if self.info.is_ragged else self._uniform()

    def advance(self, sequence: Sequence, chunk: Chunk) -> None:
        """Note that the session has taken ``chunk``."""
        sequence.num_cached += len(chunk.tokens)

    def release(self, sequence: Sequence) -> None:
        """Free the slot and blocks of a finished sequence."""
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        if self.blocks is not None:
            self.blocks.free(sequence.block_ids)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence, whether it waits, runs, or is done."""
        if sequence in self.running:
            self.release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def repair(self) -> None:
        """Recompute what is free from the running sequences, after an interrupt in the middle of a change."""
        for sequence in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
        self._free_slots = sorted({*range(self.info.num_slots)} - {s.slot for s in self.running}, reverse=True)
        if self.blocks is not None:
            self.blocks.reset(block_id for sequence in self.running for block_id in sequence.block_ids)

    def _reserve(self, sequence: Sequence) -> bool:
        """Give a sequence a free slot and its blocks; False where too few are free."""
        if self.blocks is not None:
            count = self.blocks.count(sequence.max_len)
            if count > self.blocks.num_free:
                return False
            sequence.block_ids = self.blocks.allocate(count)
        sequence.slot = self._free_slots.pop()
        return True

    def _ragged(self) -> Step:
        step = [(s, self._chunk(s, 1)) for s in self.running if s.num_pending == 1]
        budget = max(self.info.chunk_len - len(step), self._min_prompt_budget)
        for sequence in self.running:
            if sequence.num_pending > 1 and budget > 0:
                chunk = self._chunk(sequence, budget)
                budget -= len(chunk.tokens)
                step.append((sequence, chunk))
        return step

    def _uniform(self) -> Step:
        prompts = [s for s in self.running if s.num_pending > 1]
        answers = [s for s in self.running if s.num_pending == 1]
        self._took_prompts = bool(prompts) and not (answers and self._took_prompts)
        chosen = prompts if self._took_prompts else answers
        return [(s, self._chunk(s, self.info.chunk_len)) for s in chosen]

    def _chunk(self, sequence: Sequence, most: int) -> Chunk:
        begin = sequence.num_cached
        end = _whole_spans(sequence.media.spans, begin, begin + most)
        tokens = sequence.tokens[begin:end]
        is_last = begin + len(tokens) == len(sequence.tokens)
        inputs = {} if begin else sequence.inputs
        kept = (sequence.block_ids, sequence.media, sequence.adapter, sequence.prefill_len)
        return Chunk(sequence.slot, tokens, begin, int(is_last), inputs, *kept)


def _whole_spans(spans: Row[tuple[int, int]], begin: int, end: int) -> int:
    """Where a chunk ends that would end at ``end``: before a span that does not fit, or after one that never does."""
    for first, last in spans:
        if first < end < last:
            return first if first > begin else last
    return end
