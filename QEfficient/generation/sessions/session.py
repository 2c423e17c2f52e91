"""The interface of compiled models to the engine, for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from QEfficient.contract import BASE
from QEfficient.errors import CapacityError, OptionError, nearest
from QEfficient.generation.media import NOTHING, PromptMedia


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
    max_num_logits: int | None = 1
    """Newest tokens of a chunk whose logits a step can return; None: of all."""
    takes_long_chunks: bool = False
    """Whether a chunk may have more than ``chunk_len`` tokens where its media must not be split."""
    other_tokens: frozenset[int] = frozenset()
    """Tokens beyond the vocabulary that a prompt may have: those that stand for media."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters that a chunk may select, by their numbers from 1 on."""
    restart_len: int | None = None
    """A sequence that grows beyond so many tokens is computed anew, where its rotary embedding changes there."""

    def adapter_name(self, number: int) -> str:
        """The name of an adapter; that of number 0 is "base".

        Raises:
            OptionError: there is no such number.
        """
        if not 0 <= number <= len(self.adapters):
            raise OptionError(f"There is no adapter {number}: the package has {len(self.adapters)}, from 1 on.")
        return (BASE, *self.adapters)[number]

    def adapter_number(self, name: str | None) -> int:
        """The number of an adapter; 0 is the base model.

        Raises:
            OptionError: there is none of this name.
        """
        if name is None or name == BASE:
            return 0
        if name in self.adapters:
            return self.adapters.index(name) + 1
        if not self.adapters:
            raise OptionError(
                f"adapter={name!r}: this package selects no adapters by prompt. Where its adapters take turns, call "
                "set_adapter(); else load the model with QEffAutoLoraModelForCausalLM and the adapter with "
                "load_adapter(), and compile it."
            )
        raise OptionError(
            f"There is no adapter {name!r}.{nearest(str(name), self.adapters)} The package has "
            f"{', '.join(self.adapters)}, and '{BASE}' is the model without one."
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sequence."""

    slot: int
    tokens: Sequence[int]
    start: int
    """Position of the first token: how many the slot already holds."""
    num_logits: int = 1
    """Newest tokens whose logits are returned, up to the session's ``max_num_logits``."""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, by name, with the first chunk of a sequence: ``encoder_input_ids`` ``[T]``."""
    block_ids: Sequence[int] = ()
    """KV blocks of the sequence in order of position, where the session pages; else empty."""
    media: PromptMedia = NOTHING
    """The prompt's images, videos and audio, with every chunk of a sequence."""
    adapter: int = 0
    """The number of the sequence's adapter; 0 is the base model."""
    prefill_len: int = 0
    """Tokens that the sequence had when its first one was run, for rotary embeddings that depend on length."""

    @property
    def rope_lens(self) -> np.ndarray:
        """Tokens of the sequence as each of the chunk's tokens sees it, int64: those that ran with it."""
        return np.maximum(self.prefill_len, np.arange(self.start, self.start + len(self.tokens)) + 1)


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


class SupplyingSession(Session, Protocol):
    """A session of a model that takes more than what its chunks bring."""

    def supply(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Give inputs that stay as they are from step to step, in float32.

        Raises:
            OptionError: the model has no such input, or one of another shape.
        """
        ...


def check_chunks(chunks: Sequence[Chunk], info: SessionInfo, num_rows: int | None = None) -> None:
    """Check what a step is to run, before native code computes addresses from it.

    Args:
        chunks: of the step.
        info: of the session.
        num_rows: slots that the program keeps; None: ``info.num_slots``.

    Raises:
        OptionError: a slot twice, ids that are no tokens, or more logits than tokens or than the session returns.
        CapacityError: a slot or a position beyond what the session holds.
    """
    num_rows = num_rows or info.num_slots
    slots = [chunk.slot for chunk in chunks]
    if len({*slots}) < len(slots):
        raise OptionError(f"A step takes each slot once, got {slots}.")
    for chunk in chunks:
        count = len(chunk.tokens)
        if not 0 <= chunk.slot < num_rows:
            raise CapacityError(
                f"There is no slot {chunk.slot}: the program keeps {num_rows}, 0 to {num_rows - 1}. "
                "Compile with a larger kv_cache_batch_size."
            )
        if not count or chunk.start < 0 or chunk.start + count > info.ctx_len:
            raise CapacityError(
                f"Slot {chunk.slot}: tokens {chunk.start} to {chunk.start + count - 1} do not fit "
                f"ctx_len={info.ctx_len}. Compile with a larger ctx_len, or shorten the prompt."
            )
        if not 0 <= chunk.num_logits <= min(count, info.max_num_logits or count):
            raise OptionError(
                f"Slot {chunk.slot}: num_logits={chunk.num_logits} of {count} tokens; a step of this session returns "
                f"the logits of {info.max_num_logits or 'all'} token(s)."
            )
        if not 0 <= chunk.adapter <= len(info.adapters):
            raise OptionError(f"Slot {chunk.slot}: adapter {chunk.adapter} of {len(info.adapters)}.")
        _check_tokens(chunk, info)


def _check_tokens(chunk: Chunk, info: SessionInfo) -> None:
    ids, vocab_size = np.asarray(chunk.tokens), info.vocab_size
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise OptionError(
            f"Slot {chunk.slot}: tokens must be a list of whole numbers, got {ids.dtype} {list(ids.shape)}."
        )
    lowest, highest = int(ids.min()), int(ids.max())
    if highest >= vocab_size and info.other_tokens:
        highest = max((int(token) for token in ids if int(token) not in info.other_tokens), default=0)
    if lowest < 0 or highest >= vocab_size:
        raise OptionError(
            f"Slot {chunk.slot}: the token id {lowest if lowest < 0 else highest}; the model's go from 0 to "
            f"{vocab_size - 1}."
        )
