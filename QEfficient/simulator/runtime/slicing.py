"""Slices of buffers: a host array that is one part of a binding, at offsets set per run.

{"BufferSpecs": [{"Name": "past_key.*", "ElemSize": 2,
                  "DimSpecs": [{"start": "batch_index"}, {"start": 0}, {"start": "ctx_start"}, {"start": 0}]}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BufferSlice:
    """Where the slices of the bindings with a matching name begin."""

    pattern: re.Pattern[str]
    item_bytes: int
    starts: tuple[int | str, ...]
    """Per dimension: an offset, or the name of a parameter that has it."""


def parse_slices(text: str) -> list[BufferSlice]:
    """The entries of a specification.

    Raises:
        ValueError: not JSON, or not of the form above.
    """
    try:
        return [_entry(entry) for entry in json.loads(text)["BufferSpecs"]]
    except (KeyError, TypeError, re.error) as error:
        raise ValueError(f"Not a slicing specification: {error!r}") from error


def _entry(entry: Mapping[str, object]) -> BufferSlice:
    dims = entry["DimSpecs"]
    assert isinstance(dims, list)
    return BufferSlice(re.compile(str(entry["Name"])), int(str(entry["ElemSize"])), tuple(dim["start"] for dim in dims))


def find_starts(
    slices: Sequence[BufferSlice], name: str, item_bytes: int, parameters: Mapping[str, int]
) -> tuple[int, ...] | None:
    """The offsets for a binding; None if no entry matches it.

    Raises:
        ValueError: elements of another size, or a parameter without a value.
    """
    buffer_slice = next((entry for entry in slices if entry.pattern.fullmatch(name)), None)
    if buffer_slice is None:
        return None
    if buffer_slice.item_bytes != item_bytes:
        raise ValueError(
            f"{name}: elements have {item_bytes} bytes, the slicing specification says {buffer_slice.item_bytes}"
        )
    missing = [start for start in buffer_slice.starts if isinstance(start, str) and start not in parameters]
    if missing:
        raise ValueError(f"{name}: no value for {', '.join(map(str, missing))}")
    return tuple(parameters[start] if isinstance(start, str) else start for start in buffer_slice.starts)
