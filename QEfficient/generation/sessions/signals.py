"""Models over whole signals: samples of audio, or features of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from QEfficient.contract import Count, FrameRule, Range
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.retained import check_names
from QEfficient.generation.sessions.sequences import SequenceSession

_MASK = "attention_mask"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalRecord:
    """How a package takes signals."""

    input: Literal["input_values", "input_features"]
    """Name of the input: samples of audio ``[B, T]``, or features of it ``[B, T, width]``."""
    width: Annotated[int, Range(1, 1 << 16)] | None
    """Features of a place; None: samples have none."""
    seq_lens: tuple[Count, ...]
    """Compiled lengths, ascending."""
    batch_size: Count
    """Signals per run."""
    min_len: Count
    """Of the shortest signal."""
    rule: FrameRule
    padding_side: Literal["right"] | None = "right"
    """None: a signal runs at exactly its length."""
    why_not_padded: str = ""
    is_time_last: bool = False
    """Whether the program takes features as ``[B, width, T]``."""
    is_whole: bool = False
    """Whether signals have one length alone, what follows the audio being a part of them."""

    def __post_init__(self) -> None:
        if not self.seq_lens or sorted({*self.seq_lens}) != [*self.seq_lens]:
            raise ValueError(f"seq_lens={list(self.seq_lens)} are not ascending")
        if (self.width is None) != (self.input == "input_values"):
            raise ValueError(f"width={self.width} is none of {self.input}")


class SignalSession(SequenceSession[np.ndarray, np.ndarray]):
    """Signals of any mix of lengths, up to the longest compiled one. For any number of threads."""

    noun, what = "Audio", "arrays"

    def __init__(self, program: Program, record: SignalRecord, output: str, fixed_len: int | None = None):
        """
        Args:
            program: closed with the session.
            record: what the package says.
            output: name of the result ``[B, frames, ...]``.
            fixed_len: the only length that the program runs at, where it says no shapes.

        Raises:
            CorruptArtifact: the program is not what the package says.
        """
        self._record = record
        mask = frozenset() if record.padding_side is None else frozenset({_MASK})
        check_names(program, frozenset({record.input}) | mask, frozenset(), output)
        super().__init__(program, record, record.input, output, fixed_len)

    @property
    def unit(self) -> str:  # type: ignore[override]  # it depends on the package
        """What the length of a signal counts."""
        return "samples" if self._record.width is None else "frames of features"

    def _checked(self, index: int, item: np.ndarray) -> np.ndarray:
        record = self._record
        expected = [] if record.width is None else [record.width]
        if item.dtype != np.float32 or list(item.shape[1:]) != expected or not item.ndim:
            shape = "".join(f", {size}" for size in expected)
            raise OptionError(
                f"Audio {index} is {item.dtype} {list(item.shape)}, expected float32 [length{shape}] as {record.input}."
            )
        self._check_len(index, len(item))
        shortest = record.rule.length(1)
        if len(item) < shortest:
            raise CapacityError(
                f"Audio {index} has {len(item)} {self.unit}, and the model needs {shortest} for its first frame."
            )
        return item

    def _count(self, item: np.ndarray) -> int:
        return len(item)

    def _pack(self, items: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
        signals = np.zeros((len(items), length, *items[0].shape[1:]), np.float32)
        mask = np.zeros((len(items), length), np.int64)
        for row, item in enumerate(items):
            signals[row, : len(item)] = item
            mask[row, : len(item)] = 1
        return {self._record.input: signals} | ({_MASK: mask} if _MASK in self._program.inputs else {})

    def _unpadded(self, item: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The frames of a signal."""
        return row[: self._record.rule.num_frames(len(item))]
