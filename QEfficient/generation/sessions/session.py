"""The interface of compiled models to the engine, for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """The sizes of a session."""

    num_slots: int
    """Sequences whose state it holds at once."""
    ctx_len: int
    """Maximum tokens in a slot."""
    chunk_len: int
    """New tokens that one step takes, over all sequences if ``is_ragged``, else of each."""
    is_ragged: bool
    """Whether one step mixes sequences with different numbers of new tokens at no cost."""
    vocab_size: int
    block_len: int | None = None
    """Tokens of a KV block, where the session pages; None: a slot is room for ``ctx_len`` tokens."""
    num_blocks: int | None = None
    """KV blocks of all sequences together, where the session pages."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sequence."""

    slot: int
    tokens: Sequence[int]
    start: int
    """Position of the first token: how many the slot already holds."""
    num_logits: int = 1
    """Newest tokens whose logits are returned: 0, 1, or K where the session was compiled for it."""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, by name, with the first chunk of a sequence: ``encoder_input_ids`` ``[T]``."""
    block_ids: Sequence[int] = ()
    """KV blocks of the sequence in order of position, where the session pages; else empty."""


class Session(Protocol):
    """A compiled model with its state, ready to run."""

    info: SessionInfo

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Run the chunks together, each slot at most once.

        Returns:
            Logits ``[n, vocab]``, ``num_logits`` rows of each chunk, in the chunks' order. Valid until the next step.
        """
        ...

    def close(self) -> None:
        """Release the memory; the session cannot run afterwards."""
        ...
