"""Models over whole sequences, one program run each: picks the length, groups the inputs, puts the results in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from threading import Lock
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np

from QEfficient.errors import CapacityError, NumericError, OptionError
from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.retained import not_as_described

PassedT = TypeVar("PassedT")
"""A sequence as it is passed."""
SequenceT = TypeVar("SequenceT")
"""A sequence that was checked."""


class Lengths(Protocol):
    """The lengths that a package takes."""

    @property
    def seq_lens(self) -> tuple[int, ...]:
        """Compiled lengths, ascending."""

    @property
    def batch_size(self) -> int:
        """Sequences per run."""

    @property
    def min_len(self) -> int:
        """Of the shortest sequence, where there is no padding."""

    @property
    def padding_side(self) -> str | None:
        """None: a sequence runs at exactly its length."""

    @property
    def why_not_padded(self) -> str:
        """Why there is no padding."""


class SequenceSession(ABC, Generic[PassedT, SequenceT]):
    """Sequences of any mix of lengths, up to the longest compiled one. For any number of threads."""

    noun: ClassVar[str]
    """What messages call a sequence: "Text"."""
    unit: ClassVar[str]
    """What its length counts."""
    what: ClassVar[str]
    """What :meth:`run_each` takes a list of."""

    def __init__(self, program: Program, lengths: Lengths, source: str, output: str, fixed_len: int | None = None):
        """
        Args:
            program: closed with the session.
            lengths: what the package says.
            source: name of the input that has the sequences.
            output: name of the result.
            fixed_len: the only length that the program runs at, where it says no shapes.

        Raises:
            CorruptArtifact: the program is not what the package says.
        """
        self._program, self._lengths, self._output = program, lengths, output
        self._lock = Lock()
        self._has_static_shapes = program.shapes is not None or fixed_len is not None
        if program.shapes is not None:
            self._check_shapes({shape[source][:2] for shape in program.shapes})

    def _check_shapes(self, shapes: set[tuple[int, ...]]) -> None:
        lengths = self._lengths
        if shapes != {(lengths.batch_size, length) for length in lengths.seq_lens}:
            raise not_as_described(
                self._program,
                f"it takes {sorted(shapes)}, expected batch_size={lengths.batch_size} and "
                f"seq_lens={list(lengths.seq_lens)}",
            )

    @abstractmethod
    def _checked(self, index: int, item: PassedT) -> SequenceT:
        """A sequence that can run; raises where it cannot."""

    @abstractmethod
    def _count(self, item: SequenceT) -> int:
        """The length of a sequence."""

    @abstractmethod
    def _pack(self, items: Sequence[SequenceT], length: int) -> dict[str, np.ndarray]:
        """The inputs of a run with a row for each sequence, padded to ``length``."""

    @abstractmethod
    def _unpadded(self, item: SequenceT, row: np.ndarray) -> np.ndarray:
        """The part of a result that is of the sequence."""

    def run_each(self, items: Sequence[PassedT], report: Callable[[], object] | None = None) -> list[np.ndarray]:
        """Results of all sequences in their order.

        Args:
            items: the sequences.
            report: called for each that is done.

        Raises:
            CapacityError: a sequence is empty, too long, or of a length that cannot run.
            NumericError: a result is no number.
            OptionError: a sequence is none, or lacks what the model needs.
        """
        if not isinstance(items, Sequence) or isinstance(items, str | bytes):
            raise OptionError(f"{self.noun.lower()}s must be a list of {self.what}, got a {type(items).__name__}.")
        if not items:
            raise CapacityError(f"No {self.noun.lower()} was passed.")
        sequences = [self._checked(index, item) for index, item in enumerate(items)]
        lengths = [self._run_len(index, self._count(sequence)) for index, sequence in enumerate(sequences)]
        results: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for group in self._groups(lengths):
            rows = self._run_group([sequences[index] for index in group], lengths[group[-1]])
            for index, row in zip(group, rows, strict=True):
                results[index] = self._unpadded(sequences[index], row)
                if report is not None:
                    report()
        for index, result in enumerate(results):
            self._check_finite(index, result)
        return results

    def _check_finite(self, index: int, result: np.ndarray) -> None:
        if not np.isfinite(result.sum()) and not np.isfinite(result).all():
            raise NumericError(
                f"The result of {self.noun.lower()} {index} holds NaN or infinity. The model overflows, or the "
                "checkpoint is damaged. On cpu try precision='fp32'; on a card run `qefficient verify`."
            )

    def _check_len(self, index: int, count: int) -> None:
        longest = self._lengths.seq_lens[-1]
        if not count:
            raise CapacityError(f"{self.noun} {index} is empty: it has no {self.unit.removesuffix('s')}.")
        if count > longest:
            raise CapacityError(
                f"{self.noun} {index} has {count} {self.unit} and the longest compiled seq_len is {longest}. Compile "
                f"with seq_len={count} or more, or shorten the {self.noun.lower()}; nothing is cut silently."
            )

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Sequences that run together: of one length where there is no padding."""
        groups: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
            fits = bool(groups) and len(groups[-1]) < self._lengths.batch_size
            if fits and (self._lengths.padding_side is not None or lengths[groups[-1][0]] == lengths[index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def _run_len(self, index: int, count: int) -> int:
        """The length to run a sequence at."""
        lengths = self._lengths
        if lengths.padding_side is not None:
            return next(length for length in lengths.seq_lens if count <= length)
        if count < lengths.min_len:
            raise CapacityError(
                f"{self.noun} {index} has {count} {self.unit}, and this package's graph is for {lengths.min_len} or "
                f"more; compile with seq_len={count} too."
            )
        if count in lengths.seq_lens or not self._has_static_shapes:
            return count
        raise CapacityError(
            f"{self.noun} {index} has {count} {self.unit}, and this model runs {self.noun.lower()}s at exactly their "
            f"length, because {lengths.why_not_padded}. Compiled are {list(lengths.seq_lens)}; compile with "
            f"seq_len={count} too."
        )

    def _run_group(self, items: Sequence[SequenceT], length: int) -> np.ndarray:
        """``[n, ...]`` of at most ``batch_size`` sequences, padded to ``length``."""
        num_idle = 0 if self._program.shapes is None else self._lengths.batch_size - len(items)
        # Idle rows repeat the first sequence: an empty one has no mean and no softmax.
        inputs = self._pack([*items, *[items[0]] * num_idle], length)
        with self._lock:
            output = self._program.run(inputs, [self._output])[self._output]
            return np.array(output[: len(items)], np.float32)

    def close(self) -> None:
        """Release memory and devices, after the current run. Closing again does nothing."""
        with self._lock:
            self._program.close()
