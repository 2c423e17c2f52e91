"""Counters for a graph that runs in float32 and with the card's numerics side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERFLOW, UNDERFLOW = 65520.0, 2.0**-25
"""Magnitudes that become infinite in fp16, from the first up, and zero, up to the second."""


@dataclass(slots=True)
class Tally:
    """Values of a node that fp16 loses."""

    largest: float = 0.0
    num_values: int = 0
    num_overflowed: int = 0
    num_underflowed: int = 0

    def add(self, wide: NDArray, half: NDArray) -> None:
        """Count values of float32 and of fp16."""
        sizes, finite = np.abs(wide), np.isfinite(wide)
        self.largest = max(self.largest, float(sizes[finite].max(initial=0.0)))
        self.num_values += wide.size
        self.num_overflowed += int((finite & ~np.isfinite(half)).sum())
        # A larger value that is zero in fp16 comes from a cancelled difference or a division by an overflow.
        self.num_underflowed += int(((sizes > 0) & (sizes <= UNDERFLOW) & (half == 0)).sum())


class ErrorTally:
    """Relative error of values, summed over several steps."""

    def __init__(self) -> None:
        self._error = self._norm = 0.0

    def add(self, exact: NDArray, a: NDArray, b: NDArray) -> None:
        """Add ``a - b``, relative to ``exact``."""
        with np.errstate(invalid="ignore"):
            self._error += float(np.square(a.astype(np.float64) - b).sum())
        self._norm += float(np.square(exact.astype(np.float64)).sum())

    @property
    def relative(self) -> float:
        """L2 norm of the differences over that of the exact values; infinite if one is not finite."""
        error = np.sqrt(self._error / max(self._norm, 1e-30))
        return float(error) if np.isfinite(error) else np.inf


class LogitTally:
    """Differences of logits.

    Attributes:
        largest: maximum absolute difference.
        widest: maximum change of the difference of two logits of one position.
        num_positions: positions compared.
        is_finite: whether all logits were finite.
    """

    def __init__(self) -> None:
        self.largest = self.widest = 0.0
        self.num_positions, self.is_finite = 0, True

    def add(self, exact: NDArray, ours: NDArray) -> None:
        """Compare logits ``[..., vocab]``."""
        for wide, rounded in zip(exact.reshape(-1, exact.shape[-1]), ours.reshape(-1, ours.shape[-1]), strict=True):
            difference = rounded[np.isfinite(wide)] - wide[np.isfinite(wide)]
            self.num_positions += 1
            self.is_finite &= bool(np.isfinite(difference).all())
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
            # A shift of all logits changes no token.
            self.widest = max(self.widest, float(np.ptp(difference)) if difference.size else 0.0)
