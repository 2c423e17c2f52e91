"""One inference on an activated program: choose the specialization, feed, run, store the state, return results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from QEfficient.simulator.description import Binding, ProgramOptions
from QEfficient.simulator.runtime.executor import (
    Executable,
    HostAccessError,
    from_host,
    host_dtype,
    match,
    stored_state,
    to_host,
)

logger = logging.getLogger("qaicrt")

SUCCESS, DEVICE_ERROR = 0, 300
Outcome = tuple[int, list[bytes]]
"""A status, and the bytes of each binding."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The host's data for one binding."""

    data: bytes | NDArray
    item_bytes: int
    dims: tuple[int, ...]
    starts: tuple[int, ...] | None = None
    """Offset of this part in the binding; None if it is the whole."""

    @classmethod
    def of_array(cls, array: NDArray | None, starts: tuple[int, ...] | None = None) -> Passed:
        """Of an array as it is; None leaves the binding out."""
        return (
            cls(b"", 1, (0,))
            if array is None
            else cls(array.reshape(-1).view(np.uint8), array.itemsize, array.shape, starts)
        )

    @property
    def num_bytes(self) -> int:
        """Of the data."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    @property
    def place(self) -> tuple[slice, ...]:
        """Of the part in the whole."""
        return tuple(slice(start, start + size) for start, size in zip(self.starts or (), self.dims, strict=True))

    @property
    def matched_dims(self) -> tuple[int, ...]:
        """Dims for the choice of a specialization: a part of a state matches any."""
        return self.dims if self.starts is None else (0,)

    @staticmethod
    def room(binding: Binding) -> int:
        """Bytes of a binding on the device."""
        return host_dtype(binding).itemsize * prod(binding.largest)

    def is_consistent(self, binding: Binding) -> bool:
        """Whether bytes, element size and dims agree. For an empty buffer only the bytes count."""
        if self.num_bytes == 0:
            return prod(self.dims) == 0
        expected = host_dtype(binding).itemsize
        return self.item_bytes == expected and expected * prod(self.dims) == self.num_bytes


def check_slice(binding: Binding, starts: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the part lies in the binding, which must be state."""
    fits = len(starts) == len(shape) == len(binding.largest) and all(
        start >= 0 and start + size <= whole for start, size, whole in zip(starts, shape, binding.largest, strict=False)
    )
    if not fits or not binding.is_state:
        raise ValueError(f"{binding.name}: a part {shape} at {starts} does not lie in a state of {binding.largest}")


class Activation:
    """The state of an activated program: it persists between runs, across specializations."""

    def __init__(self, executable: Executable, options: ProgramOptions, state: dict[str, NDArray]):
        self.executable, self.options, self.state = executable, options, state


def infer(activation: Activation, passed: Sequence[Passed]) -> Outcome:
    """Run once. Invalid buffers fail here, as on the card, not when they are set."""
    bindings = activation.options.bindings
    for binding, one in zip(bindings, passed, strict=True):
        if not one.is_consistent(binding):
            return _fail(f"{binding.name}: {one.num_bytes} bytes are not {one.dims} of {host_dtype(binding)}")
    chosen = match(bindings, [one.matched_dims for one in passed])
    if chosen is None:
        return _fail(f"No matching dimension found: passed {[one.dims for one in passed]}")
    try:
        feeds = _feeds(activation, passed)
        outputs = [
            (index, binding)
            for index, (binding, one) in enumerate(zip(bindings, passed, strict=True))
            if not binding.is_input and (one.num_bytes or binding.is_state)
        ]
        values = _run(activation, feeds, [binding.name for _, binding in outputs])
        return _collect(activation, passed, outputs, values, chosen)
    except (HostAccessError, _InferenceError) as error:
        return _fail(str(error))


class _InferenceError(Exception):
    pass


def _fail(reason: str) -> Outcome:
    logger.error("%s", reason)
    return DEVICE_ERROR, []


def _feeds(activation: Activation, passed: Sequence[Passed]) -> dict[str, NDArray]:
    feeds = {}
    fp16 = activation.options.fp16
    for binding, one in zip(activation.options.bindings, passed, strict=True):
        if not binding.is_input:
            continue
        if one.starts is not None:
            feeds[binding.name] = activation.state[binding.name].copy()
            feeds[binding.name][one.place] = from_host(binding, one.data, one.dims, fp16=fp16)
        elif one.num_bytes:
            feeds[binding.name] = from_host(binding, one.data, one.dims, fp16=fp16)
        elif binding.is_state:
            feeds[binding.name] = activation.state[binding.name]
        else:
            raise _InferenceError(f"Input {binding.name} has no data")
    return feeds


def _run(activation: Activation, feeds: dict[str, NDArray], names: list[str]) -> list[NDArray]:
    from onnxruntime.capi import onnxruntime_pybind11_state as ort  # type: ignore[import-untyped]

    try:
        return activation.executable.run(feeds, names)
    except (ort.Fail, ort.InvalidArgument, ort.RuntimeException, ort.NotImplemented, RuntimeError) as error:
        raise _InferenceError(f"The device failed: {error}") from error


def _collect(
    activation: Activation,
    passed: Sequence[Passed],
    outputs: list[tuple[int, Binding]],
    values: list[NDArray],
    chosen: int,
) -> Outcome:
    results = [b""] * len(passed)
    state = {}
    for (index, binding), value in zip(outputs, values, strict=True):
        if value.shape != binding.shapes[chosen]:
            raise _InferenceError(
                f"{binding.name} has shape {value.shape}, compiled were {binding.shapes[chosen]}: "
                "the graph does not keep to its declared shapes"
            )
        kept = stored_state(binding, value, fp16=activation.options.fp16) if binding.is_state else value
        if binding.is_state:
            state[activation.options.retained[binding.name]] = kept
        if passed[index].num_bytes:
            part = kept if passed[index].starts is None else kept[passed[index].place]
            results[index] = np.ascontiguousarray(to_host(binding, part)).tobytes()
    activation.state.update(state)
    return SUCCESS, results
