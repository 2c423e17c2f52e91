"""Runs a stored program on ONNX Runtime, and converts between the host's bytes and tensors.

Environment variables, read when a program is loaded or activated:

    QEFF_SIM_POISON   "1": values undefined on the card (state after activation, reads out of range) are large,
                      not zero, which exposes graphs that depend on them
    QEFF_SIM_THREADS  threads of one program; 1
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from QEfficient.errors import CorruptArtifact, OptionError
from QEfficient.simulator import numerics
from QEfficient.simulator.container import FILE_NAME, Segment, read_container, read_segment
from QEfficient.simulator.description import (
    GRAPH,
    NETWORK,
    OPTIONS,
    UNDEFINED,
    WEIGHTS,
    Binding,
    ProgramOptions,
)

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

POISON = 1000.0
"""Far above activations, but small enough that sums of its products stay finite in most graphs."""
POISON_INT = 1 << 30

_HOST_TYPES = {
    "float": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int8": np.int8,
    "uint8": np.uint8,
    "mxint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.int8,
}


class HostAccessError(Exception):
    """The host reads or writes data in a format that is internal to the card."""


class Executable:
    """A program that is ready to run, without its state."""

    def __init__(self, folder: Path):
        """Read ``folder/programqpc.bin``.

        Raises:
            CorruptArtifact: no container, or not from the simulator.
        """
        self.path = folder / FILE_NAME if folder.is_dir() else folder
        if not self.path.is_file():
            raise CorruptArtifact(f"{folder} has no {FILE_NAME}")
        self._segments = read_container(self.path)
        missing = [name for name in (NETWORK, WEIGHTS, GRAPH, OPTIONS) if name not in self._segments]
        if missing:
            raise CorruptArtifact(
                f"{self.path} lacks {', '.join(missing)}; the simulator runs only what its qaic-compile wrote"
            )
        self._session: Any = None

    def network(self) -> bytes:
        """The serialized network description."""
        return read_segment(self.path, self._segments[NETWORK])

    def options(self) -> ProgramOptions:
        """The compiler's metadata."""
        return ProgramOptions.from_json(read_segment(self.path, self._segments[OPTIONS]).decode(errors="replace"))

    def load(self) -> None:
        """Open the session; weights are mapped from the container."""
        if self._session is None:
            graph = _relocated(
                read_segment(self.path, self._segments[GRAPH]),
                self._segments[WEIGHTS],
                POISON if is_poisoned() else 0.0,
            )
            self._session = open_session(graph, self.path.parent)

    def run(self, feeds: Mapping[str, NDArray], outputs: Sequence[str]) -> list[NDArray]:
        """The graph's outputs, floats as float32."""
        return self._session.run(list(outputs), dict(feeds))


def is_poisoned() -> bool:
    """Whether undefined values are poisoned."""
    return os.environ.get("QEFF_SIM_POISON", "0") not in ("", "0")


def num_threads() -> int:
    """Threads that a session may use."""
    text = os.environ.get("QEFF_SIM_THREADS", "1")
    if not text.isdecimal() or len(text) > 4 or int(text) < 1:
        raise OptionError(f"QEFF_SIM_THREADS is {text!r}; expected a number from 1 to 9999")
    return int(text)


def open_session(graph: bytes, weights_folder: Path) -> Any:
    """An ONNX Runtime session without graph optimizations.

    Those merge nodes, which would skip roundings between them.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_folder))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _relocated(graph: bytes, weights: Segment, undefined: float) -> bytes:
    """Point the constants at the segment's place in the container, which is all that they may read.

    Raises:
        CorruptArtifact: it is no graph, or another constant lies in a file, or one reaches out of the segment.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(graph)
    except DecodeError as error:
        raise CorruptArtifact(f"The program's graph cannot be read: {error}. Compile it again.") from error
    if _num_external(model) != sum(bool(tensor.external_data) for tensor in model.graph.initializer):
        raise CorruptArtifact("The program's graph reads a constant of its inner graphs from a file. Compile it again.")
    for tensor in model.graph.initializer:
        if tensor.name == UNDEFINED:
            tensor.raw_data = np.float32(undefined).tobytes()
        if tensor.external_data:
            _relocate(tensor, weights)
    return model.SerializeToString()


def _num_external(message: Message) -> int:
    """How many constants anywhere in an ONNX message lie in files."""
    if message.DESCRIPTOR.name == "TensorProto":
        return bool(message.external_data)  # type: ignore[attr-defined]
    inner = [value for field, value in message.ListFields() if field.message_type is not None]
    parts = [part for value in inner for part in ([value] if hasattr(value, "ListFields") else value)]
    return sum(map(_num_external, parts))


def _relocate(tensor: onnx.TensorProto, weights: Segment) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [entries.get(name, "0") for name in ("offset", "length")]
    if not all(text.isdecimal() and len(text) < 19 for text in numbers) or sum(map(int, numbers)) > weights.num_bytes:
        raise CorruptArtifact(f"The program's constant {tensor.name} lies outside of its weights. Compile it again.")
    del tensor.external_data[:]
    offset, length = map(int, numbers)
    for key, value in (("location", FILE_NAME), ("offset", str(offset + weights.start)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def host_dtype(binding: Binding) -> np.dtype:
    """The type of a buffer's elements; bfloat16 is represented by its bits."""
    return np.dtype(_HOST_TYPES[binding.precision])


def from_host(binding: Binding, buffer: bytes | NDArray, shape: Sequence[int], *, fp16: bool) -> NDArray:
    """The tensor that a buffer holds; ``fp16``: the card rounds float state on input.

    Raises:
        HostAccessError: an mxint8 state that is not all zeros.
    """
    values = np.frombuffer(buffer, host_dtype(binding)).reshape(shape)
    if binding.precision == "bool":
        return values.astype(np.bool_)
    if binding.is_integer:
        return values
    if binding.precision == "mxint8":
        if values.any():
            raise HostAccessError(f"{binding.name} is mxint8: how its bytes are laid out is the card's secret")
        return np.zeros(shape, np.float32)
    if binding.precision == "bfloat16":
        return numerics.from_bf16_bits(values)
    if binding.precision == "int8":
        return (values.astype(np.float32) - binding.offset) * np.float32(binding.scale)
    if binding.precision == "float":
        return numerics.round_fp16(values) if fp16 and binding.is_state else values
    return values.astype(np.float32)


def to_host(binding: Binding, values: NDArray) -> NDArray:
    """The inverse of :func:`from_host`, as an array of :func:`host_dtype`."""
    if binding.precision == "mxint8":
        raise HostAccessError(f"{binding.name} is mxint8: how its bytes are laid out is the card's secret")
    if binding.precision == "bfloat16":
        return numerics.to_bf16_bits(values)
    if binding.precision == "int8" and not binding.is_integer:
        quantised = np.rint(values / np.float32(binding.scale)) + binding.offset
        return np.clip(quantised, -128, 127).astype(np.int8)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, host_dtype(binding))


def stored_state(binding: Binding, values: NDArray, *, fp16: bool) -> NDArray:
    """State rounded to the binding's precision, as the card stores it."""
    if binding.is_integer or binding.precision == "float" or (binding.precision == "float16" and fp16):
        return values
    if binding.precision == "mxint8":
        return numerics.round_mxint8(values)
    return from_host(binding, to_host(binding, values), values.shape, fp16=False)


def initial_state(binding: Binding) -> NDArray:
    """Initial state after activation: zeros, or poison."""
    shape = binding.largest
    if binding.precision == "bool":
        return np.full(shape, is_poisoned(), np.bool_)
    if binding.is_integer:
        info = np.iinfo(host_dtype(binding))
        return np.full(shape, min(POISON_INT, int(info.max)) if is_poisoned() else 0, host_dtype(binding))
    return np.full(shape, POISON if is_poisoned() else 0.0, np.float32)


def match(bindings: Sequence[Binding], dims: Sequence[Sequence[int]]) -> int | None:
    """The specialization that matches the passed dims; an empty buffer matches any if the binding allows it."""
    for index in range(len(bindings[0].shapes)):
        if all(
            tuple(passed) == binding.shapes[index] or (binding.is_partial and prod(passed) == 0 and len(passed) == 1)
            for binding, passed in zip(bindings, dims, strict=True)
        ):
            return index
    return None
