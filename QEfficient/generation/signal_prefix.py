"""A row before the features of audio that an option of generation picks: who the notes are to be like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from QEfficient.errors import OptionError, nearest

FILE, TENSOR = "signal_prefix.safetensors", "rows"
"""In a package: the rows of all names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixRecord:
    """What a package says of such rows."""

    option: str
    """Of ``generate``."""
    rows: Mapping[str, int]
    """What the option may be -> the row of the table in :data:`FILE`."""
    default: str


class SignalPrefix:
    """The rows of a package.

    Args:
        record: what the package says.
        folder: the package's.
    """

    def __init__(self, record: PrefixRecord, folder: Path):
        from safetensors.numpy import load_file

        self.record = record
        self._rows = load_file(folder / FILE)[TENSOR]

    def before(self, signal: np.ndarray, name: str | None) -> np.ndarray:
        """``signal [T, width]`` after the row of ``name``, or of the default.

        Raises:
            OptionError: there is no row of this name, or the signal has another width.
        """
        name = self.record.default if name is None else name
        place = self.record.rows.get(name)
        if place is None:
            known = list(self.record.rows)
            raise OptionError(
                f"{self.record.option}={name!r}: the model has {', '.join(known)}.{nearest(str(name), known)}"
            )
        if signal.ndim != 2 or signal.shape[1] != self._rows.shape[1]:
            raise OptionError(f"Features are {list(signal.shape)}, expected [length, {self._rows.shape[1]}].")
        return np.concatenate([self._rows[place : place + 1], signal])
