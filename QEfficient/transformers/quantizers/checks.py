"""What readers check before any weight is read: values of the config, and parts, dtypes and shapes in the headers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.files import quantization_method, shortened
from QEfficient.transformers.checkpoint.packed import Stored, damaged

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""Dtypes of scales that are real numbers."""
FLOAT_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


_OTHER_CHECKPOINT = (
    "Take another quantised checkpoint of the model, or its original one with weight_format='int8' or 'int4' (cpu) or "
    "mxfp6_matmul=True (card)."
)


@dataclass(frozen=True)
class Section:
    """The part of a config that says how the weights are quantised."""

    source: Path
    """The file."""
    name: str
    """The section's name in the file."""
    values: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The format's name in transformers."""
        return quantization_method(self.values)

    def choice(self, key: str, choices: Collection[object], default: object = None) -> Any:
        """A value that must be one of ``choices``; compared without case.

        Raises:
            UnsupportedModel: it is another one.
        """
        value = self.values.get(key, default)
        value = default if value is None else value
        value = value.lower() if isinstance(value, str) else value
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            listed = ", ".join(map(repr, choices))
            raise self.unsupported(key, f"is {shortened(value)}, and this version reads {listed}")
        return value

    def text(self, key: str) -> str:
        """A text.

        Raises:
            CorruptCheckpoint: it is something else.
        """
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.corrupt(key, f"is {shortened(value)}, expected a text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            CorruptCheckpoint: it is none.
        """
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int:
            raise self.corrupt(key, f"is {shortened(value)}, expected a whole number")
        return value

    def group_size(self, key: str) -> int:
        """How many input features share a scale: a positive whole number, or -1 for all.

        Raises:
            CorruptCheckpoint: it is something else.
        """
        value = self.integer(key)
        if value < 1 and value != -1:
            raise self.corrupt(key, f"is {value}, expected a positive whole number or -1")
        return value

    def pair(self, key: str) -> tuple[int, int] | None:
        """Two positive whole numbers, or None.

        Raises:
            CorruptCheckpoint: it is something else.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if not (isinstance(value, list) and len(value) == 2 and all(type(item) is int and item > 0 for item in value)):
            raise self.corrupt(key, f"is {shortened(value)}, expected two positive whole numbers")
        return value[0], value[1]

    def section(self, key: str) -> Section:
        """A section inside this one.

        Raises:
            CorruptCheckpoint: it is none.
        """
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.corrupt(key, f"is {shortened(value)}, expected an object")
        return Section(self.source, f"{self.name}.{key}", value)

    def corrupt(self, key: str, what: str) -> CorruptCheckpoint:
        """An error that names the file and the key."""
        return CorruptCheckpoint(f"{self.source}: {self.name}.{key} {what}. Download the checkpoint again.")

    def unsupported(self, key: str, what: str) -> UnsupportedModel:
        """An error that names the file and the key."""
        return UnsupportedModel(f"{self.source}: {self.name}.{key} {what}. {_OTHER_CHECKPOINT}")


def unsupported(stored: Stored, what: str) -> UnsupportedModel:
    """An error that names the file and the key of a tensor that this version does not read."""
    return UnsupportedModel(f"{stored.file.path}: '{stored.name}' {what}. {_OTHER_CHECKPOINT}")


def require_parts(parts: Mapping[str, Stored], *names: str) -> None:
    """
    Raises:
        CorruptCheckpoint: a weight has some of its parts and not these.
    """
    missing = [name for name in names if name not in parts]
    if missing:
        stored = next(iter(parts.values()))
        raise damaged(stored, f"is stored without '{missing[0]}', which is a part of the same weight")


def require_dtype(stored: Stored, *dtypes: torch.dtype) -> None:
    """
    Raises:
        CorruptCheckpoint: a part has another dtype.
    """
    if stored.tensor.dtype not in dtypes:
        expected = " or ".join(map(_said, dtypes))
        raise damaged(stored, f"is stored as {_said(stored.tensor.dtype)}, expected {expected}")


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_shape(stored: Stored, *expected: int, setting: str | None = None) -> None:
    """
    Args:
        stored: a part.
        expected: its shape.
        setting: of the config, where the shape follows from one.

    Raises:
        CorruptCheckpoint: it has another shape.
    """
    if stored.tensor.shape != expected:
        raise damaged(stored, f"has shape {stored.tensor.shape}, expected {expected}", setting)


def require_axes(stored: Stored, num_axes: int) -> tuple[int, ...]:
    """The shape of a part.

    Raises:
        CorruptCheckpoint: it has another number of axes, or an empty one.
    """
    shape = stored.tensor.shape
    if len(shape) != num_axes or not all(shape):
        raise damaged(stored, f"has shape {shape}, expected {num_axes} axes with elements")
    return shape


def read_octets(stored: Stored, max_bytes: int) -> bytes:
    """The bytes of a small part.

    Raises:
        CorruptCheckpoint: it is larger, or its file ends inside it.
    """
    num_bytes = stored.tensor.num_bytes
    if num_bytes > max_bytes:
        raise damaged(stored, f"has {num_bytes} bytes, expected at most {max_bytes}")
    with stored.file.path.open("rb") as file:
        file.seek(stored.offset)
        octets = file.read(num_bytes)
    if len(octets) != num_bytes:
        raise damaged(stored, "ends early")
    return octets


def read_integers(stored: Stored, count: int) -> tuple[int, ...]:
    """A part of a few positive integers, such as a shape.

    Raises:
        CorruptCheckpoint: it holds something else.
    """
    require_shape(stored, count)
    values = _integers(stored, count)
    if min(values) < 1:
        raise damaged(stored, f"holds {values}, expected {count} positive sizes")
    return tuple(values)


def read_integer(stored: Stored) -> int:
    """A part of one integer, or of one truth value.

    Raises:
        CorruptCheckpoint: it holds something else.
    """
    require_shape(stored)
    return _integers(stored, 1)[0]


def _integers(stored: Stored, count: int) -> list[int]:
    require_dtype(stored, torch.uint8, torch.int32, torch.int64)
    dtype = stored.tensor.dtype
    octets = read_octets(stored, count * dtype.itemsize)
    values: list[int] = np.frombuffer(octets, f"<{'i' if dtype.is_signed else 'u'}{dtype.itemsize}").tolist()
    return values
