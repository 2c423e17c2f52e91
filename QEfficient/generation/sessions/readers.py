"""What the encoder of a sequence-to-sequence model reads: how inputs are checked and packed for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.sessions.signals import SignalRecord

TEXT, STATES = "encoder_input_ids", "encoder_hidden_states"


class Reader(Protocol):
    """The encoder's input."""

    @property
    def name(self) -> str:
        """Name of the input."""

    @property
    def longest(self) -> int:
        """Maximum length."""

    @property
    def idle_len(self) -> int:
        """Length of the input of a run that does not read."""

    @property
    def idle_lens(self) -> int:
        """What the program is told of the length of a row that has none."""

    @property
    def time_axis(self) -> int:
        """Axis of the length, in the program's input."""

    @property
    def has_lens(self) -> bool:
        """Whether the program takes the length of each row."""

    @property
    def why_not_padded(self) -> str | None:
        """Why an input cannot be padded; None: it can."""

    def check(self, item: np.ndarray, index: int, is_static: bool) -> None:
        """
        Args:
            item: ``[T, ...]``.
            index: the prompt's place, for the message.
            is_static: whether the program runs at compiled lengths only.

        Raises:
            CapacityError: it is empty, too long, or of a length that cannot run.
            OptionError: it is none that the encoder reads.
        """

    def pack(self, items: Sequence[np.ndarray], length: int) -> np.ndarray:
        """The program's input with a row for each item, padded on the right."""


@dataclass(frozen=True)
class TextReader:
    """Token ids ``[T]``."""

    longest: int
    vocab_size: int
    why_not_padded: str | None = None
    name: str = TEXT
    idle_len: int = 1
    idle_lens: int = 0
    time_axis: int = 1
    has_lens: bool = True

    def check(self, item: Sequence[int] | np.ndarray, index: int, is_static: bool) -> None:
        """See :class:`Reader`."""
        count, limit = len(item), self.longest
        if not count:
            raise CapacityError(f"Prompt {index} is empty: the encoder has no token to read.")
        if count > limit:
            raise CapacityError(
                f"Prompt {index} has {count} tokens and the model was compiled for encoder_ctx_len={limit}. Compile "
                f"with encoder_ctx_len={count} or more, or shorten the prompt; nothing is cut silently."
            )
        if self.why_not_padded is not None and is_static and count != limit:
            raise CapacityError(
                f"Prompt {index} has {count} tokens, and this model reads encoder inputs of exactly "
                f"encoder_ctx_len={limit}, because {self.why_not_padded}. Compile with encoder_ctx_len={count}, or "
                "for cpu, which takes any length."
            )
        unknown = [token for token in item if not 0 <= token < self.vocab_size]
        if unknown:
            raise OptionError(
                f"Prompt {index} has the token id {unknown[0]}, and the encoder's go from 0 to {self.vocab_size - 1}. "
                "Was it encoded with another model's tokenizer?"
            )

    def pack(self, items: Sequence[np.ndarray], length: int) -> np.ndarray:
        """See :class:`Reader`."""
        ids = np.zeros((len(items), length), np.int64)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item
        return ids


@dataclass(frozen=True)
class SignalReader:
    """A signal ``[T]`` or ``[T, width]``."""

    record: SignalRecord

    @property
    def name(self) -> str:
        """See :class:`Reader`."""
        return self.record.input

    @property
    def longest(self) -> int:
        """See :class:`Reader`."""
        return self.record.seq_lens[-1]

    @property
    def idle_len(self) -> int:
        """See :class:`Reader`."""
        return self.record.rule.length(1)

    @property
    def idle_lens(self) -> int:
        """See :class:`Reader`: some encoders look up the last frame of a row, and need one."""
        return self.idle_len

    @property
    def time_axis(self) -> int:
        """See :class:`Reader`."""
        return 2 if self.record.is_time_last else 1

    @property
    def has_lens(self) -> bool:
        """See :class:`Reader`."""
        return not self.record.is_whole

    @property
    def why_not_padded(self) -> str | None:
        """See :class:`Reader`."""
        return self.record.why_not_padded if self.record.padding_side is None else None

    def check(self, item: np.ndarray, index: int, is_static: bool) -> None:
        """See :class:`Reader`."""
        record, count = self.record, len(item)
        expected = [] if record.width is None else [record.width]
        if item.dtype != np.float32 or list(item.shape[1:]) != expected:
            shape = "".join(f", {size}" for size in expected)
            raise OptionError(
                f"Audio {index} is {item.dtype} {list(item.shape)}, expected float32 [length{shape}] as {self.name}."
            )
        if count > self.longest:
            raise CapacityError(
                f"Audio {index} has the length {count} and the model was compiled for {self.longest}. Compile with a "
                f"larger encoder_ctx_len, at least {record.rule.num_frames(count)}, or cut the audio; nothing is cut "
                "silently."
            )
        shortest = record.rule.length(2)
        if count < shortest:
            raise CapacityError(f"Audio {index} has the length {count}, and the encoder needs at least {shortest}.")
        if count != self.longest and (record.is_whole or (is_static and self.why_not_padded is not None)):
            raise CapacityError(
                f"Audio {index} has the length {count}, and this model reads {self.name} of exactly {self.longest}, "
                f"because {self.why_not_padded}."
            )

    def pack(self, items: Sequence[np.ndarray], length: int) -> np.ndarray:
        """See :class:`Reader`."""
        rest = () if self.record.width is None else (self.record.width,)
        signals = np.zeros((len(items), length, *rest), np.float32)
        for row, item in enumerate(items):
            if len(item):
                signals[row, : len(item)] = item
        return np.ascontiguousarray(signals.transpose(0, 2, 1)) if self.record.is_time_last else signals


@dataclass(frozen=True)
class StatesReader:
    """States ``[T, width]`` of an encoder that ran before."""

    longest: int
    width: int
    name: str = STATES
    idle_len: int = 1
    idle_lens: int = 0
    time_axis: int = 1
    has_lens: bool = True
    why_not_padded: None = None

    def check(self, item: np.ndarray, index: int, is_static: bool) -> None:
        """See :class:`Reader`."""
        if len(item) > self.longest:
            raise CapacityError(
                f"Prompt {index} makes {len(item)} states of the encoder and the model was compiled for "
                f"encoder_ctx_len={self.longest}. Compile with encoder_ctx_len={len(item)} or more."
            )

    def pack(self, items: Sequence[np.ndarray], length: int) -> np.ndarray:
        """See :class:`Reader`."""
        states = np.zeros((len(items), length, self.width), np.float32)
        for row, item in enumerate(items):
            if len(item):
                states[row, : len(item)] = item
        return states
