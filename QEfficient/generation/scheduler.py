"""Which tokens go into the next step. It touches no tensors, only counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from QEfficient.generation.sessions.session import Chunk, SessionInfo


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way."""

    index: int
    """The request's place in the caller's order."""
    tokens: list[int]
    """Prompt and answer so far."""
    num_cached: int = 0
    """Tokens that the session's state already holds."""
    slot: int = -1
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, which go with the first chunk."""
    prompt_len: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_len = len(self.tokens)

    @property
    def num_pending(self) -> int:
        """Tokens that the session has not seen."""
        return len(self.tokens) - self.num_cached


class Scheduler:
    """Sequences wait for a slot, keep it until they are done, and share every step.

    A ragged session takes one token of each running answer first and fills the step with prompt tokens. Otherwise
    prompts are brought up first, together, and answers then advance side by side.
    """

    def __init__(self, info: SessionInfo):
        self.info = info
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._free = list(range(info.num_slots))[::-1]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    @property
    def is_done(self) -> bool:
        """Whether no sequence is left."""
        return not self.waiting and not self.running

    def schedule(self) -> list[tuple[Sequence, Chunk]]:
        """The next step. At least one token goes into it unless everything is done."""
        while self.waiting and self._free:
            sequence = self.waiting.popleft()
            sequence.slot = self._free.pop()
            self.running.append(sequence)
        return self._ragged() if self.info.is_ragged else self._uniform()

    def advance(self, sequence: Sequence, chunk: Chunk) -> None:
        """Note that the session has taken ``chunk``."""
        sequence.num_cached += len(chunk.tokens)

    def release(self, sequence: Sequence) -> None:
        """Give the slot of a finished sequence to whoever is next."""
        self.running.remove(sequence)
        self._free.append(sequence.slot)

    def _ragged(self) -> list[tuple[Sequence, Chunk]]:
        answers = [s for s in self.running if s.num_pending == 1]
        step = [(s, self._chunk(s, 1)) for s in answers]
        budget = self.info.chunk_len - len(step)
        for sequence in self.running:
            if sequence.num_pending > 1 and budget > 0:
                chunk = self._chunk(sequence, budget)
                budget -= len(chunk.tokens)
                step.append((sequence, chunk))
        return step

    def _uniform(self) -> list[tuple[Sequence, Chunk]]:
        prompts = [s for s in self.running if s.num_pending > 1]
        return [(s, self._chunk(s, self.info.chunk_len)) for s in prompts or self.running]

    def _chunk(self, sequence: Sequence, most: int) -> Chunk:
        begin = sequence.num_cached
        tokens = sequence.tokens[begin : begin + most]
        is_last = begin + len(tokens) == len(sequence.tokens)
        return Chunk(sequence.slot, tokens, begin, int(is_last), {} if begin else sequence.inputs)
