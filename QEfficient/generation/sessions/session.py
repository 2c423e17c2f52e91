"""What the engine needs of a compiled model, whatever it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """What a session can take."""

    num_slots: int
    """Sequences whose state it holds at once."""
    ctx_len: int
    """Tokens a slot can hold."""
    chunk_len: int
    """New tokens that one step takes, over all sequences if ``is_ragged``, else of each."""
    is_ragged: bool
    """Whether one step mixes sequences with different numbers of new tokens at no cost."""
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sequence."""

    slot: int
    tokens: Sequence[int]
    start: int
    """Position of the first token: how many the slot already holds."""
    wants_logits: bool = True
    """Whether the token after the last is to be predicted."""
    text: Sequence[int] = ()
    """What the encoder is to read, with the first chunk of an answer; empty where the model has no encoder."""


class Session(Protocol):
    """A compiled model with its state, ready to run."""

    info: SessionInfo

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Run the chunks together, each slot at most once.

        Returns:
            Logits ``[n, vocab]`` for the n chunks that want them, in their order. Valid until the next step.
        """
        ...

    def close(self) -> None:
        """Give the memory back; the session cannot run after it."""
        ...
