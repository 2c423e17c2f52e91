"""Description of a program for the runtime, stored with its graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Annotated, Literal

from QEfficient.contract import Count, Range
from QEfficient.errors import CorruptArtifact
from QEfficient.simulator.runtime.descriptors import DESCRIPTION_VERSION, ITEM_BYTES, NetworkDescriptor
from QEfficient.store.records import read_record

Bytes = Annotated[int, Range(0)]
Shape = tuple[Annotated[int, Range(0, 2**31 - 1)], ...]
Precision = Literal["float", "float16", "bfloat16", "int8", "uint8", "mxint8", "int16", "int32", "int64", "bool"]

NETWORK = "networkdesc.bin"
WEIGHTS = "sim_weights.bin"
GRAPH = "sim_graph.onnx"
OPTIONS = "sim_options.json"
"""The segments of a container."""

UNDEFINED = "sim/undefined"
"""The scalar that a float GatherND returns for an index out of range; the runtime may set it (poison)."""

_NUMBERS = {
    "float": 0,
    "float16": 1,
    "bfloat16": 11,
    "int8": 2,
    "uint8": 3,
    "mxint8": 3,
    "int16": 4,
    "int32": 6,
    "int64": 7,
    "bool": 8,
}
"""Type numbers of the descriptors; an mxint8 binding counts one byte per value, its scales are internal to the card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One input or output."""

    name: str
    is_input: bool
    precision: Precision
    """Type of the host's buffer: one of the custom IO's precisions, or an integer type."""
    shapes: tuple[Shape, ...]
    """One per specialization."""
    is_state: bool = False
    is_integer: bool = False
    """Whether the graph itself has integers here; a quantised float is int8 outside only."""
    scale: float = 1.0
    offset: int = 0

    @property
    def number(self) -> int:
        """Of the type in the descriptors."""
        return _NUMBERS[self.precision]

    @property
    def is_partial(self) -> bool:
        """Whether the host may pass a smaller buffer, or none."""
        return self.is_state or len(set(self.shapes)) > 1

    @property
    def largest(self) -> Shape:
        """The shape that buffers are allocated for."""
        return max(self.shapes, key=prod)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramOptions:
    """Metadata that the runtime needs with the graph; stored as JSON."""

    sdk_version: str
    num_cores: Count
    num_devices: Count
    fp16: bool
    bindings: list[Binding]
    weight_bytes: Bytes = 0
    """On the card, in the formats that it stores."""
    state_bytes: Bytes = 0
    io_bytes: Bytes = 0
    retained: Mapping[str, str] = field(default_factory=dict)
    """State output -> the input that it becomes."""

    def check(self) -> None:
        """Compare the fields with each other, since what follows relies on that.

        Raises:
            CorruptArtifact: they contradict each other.
        """
        inputs = {binding.name for binding in self.bindings if binding.is_input}
        states = {binding.name for binding in self.bindings if binding.is_state and not binding.is_input}
        sizes = memory(self.bindings, self.retained)
        fault = ""
        if not self.bindings or {len(binding.shapes) for binding in self.bindings} != {len(self.bindings[0].shapes)}:
            fault = "its bindings have different numbers of shapes"
        elif not states <= self.retained.keys() or not {*self.retained.values()} <= inputs:
            fault = "state lacks its input"
        elif sizes != {"state_bytes": self.state_bytes, "io_bytes": self.io_bytes}:
            fault = f"its buffers take {sizes}, and it says {self.state_bytes} and {self.io_bytes}"
        if fault:
            raise CorruptArtifact(f"The program's description contradicts itself: {fault}. Compile it again.")

    @property
    def bytes_per_device(self) -> int:
        """Weights and state are distributed over the devices; each device has all IO buffers."""
        return -(-(self.weight_bytes + self.state_bytes) // self.num_devices) + self.io_bytes

    def to_json(self) -> str:
        """With sorted keys, so that equal programs have equal bytes."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProgramOptions:
        """The inverse of :meth:`to_json`.

        Raises:
            CorruptArtifact: it is no such description, or contradicts itself.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(f"The program's description is not JSON: {error}. Compile it again.") from error
        options = read_record(cls, fields, "the program's description")
        options.check()
        return options


def network_descriptor(bindings: Sequence[Binding], name: str, num_cores: int, lists_shapes: bool) -> bytes:
    """The serialized ``networkdesc.bin``; ``lists_shapes`` if the host chooses among specializations."""
    network = NetworkDescriptor(
        major_version=DESCRIPTION_VERSION[0],
        minor_version=DESCRIPTION_VERSION[1],
        network_name=name,
        num_cores=num_cores,
    )
    for binding in bindings:
        side = network.inputs if binding.is_input else network.outputs
        io = {"type": binding.number, "qscale": binding.scale, "qoffset": binding.offset, "dims": binding.largest}
        side.add(name=binding.name, io_initial=io, io_transformed=io, is_partial_allowed=binding.is_partial)
    for index in range(len(bindings[0].shapes) if lists_shapes else 0):
        allowed = network.allowed_shapes.add()
        for binding in bindings:
            allowed.shapes.add(type=binding.number, dims=binding.shapes[index])
    return network.SerializeToString(deterministic=True)


def num_bytes(binding: Binding) -> int:
    """Of the largest buffer."""
    return ITEM_BYTES[binding.number] * prod(binding.largest)


def memory(bindings: Sequence[Binding], retained: Mapping[str, str]) -> dict[str, int]:
    """Bytes of state (kept once) and of IO buffers."""
    state = [binding for binding in bindings if binding.name in set(retained.values()) and binding.is_input]
    plain = [binding for binding in bindings if not binding.is_state]
    return {"state_bytes": sum(map(num_bytes, state)), "io_bytes": sum(map(num_bytes, plain))}
