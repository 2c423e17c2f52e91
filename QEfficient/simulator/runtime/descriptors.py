"""The two descriptions of a program's inputs and outputs, as protobuf classes that are built here.

``NetworkDescriptor`` is stored in a container, ``IoDesc`` is what the host reads. They live in a separate pool, so
that the SDK's ``QAicApi_pb2`` can be loaded in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
}
_Messages = Mapping[str, Mapping[str, tuple[int, str]]]
_Enums = Mapping[str, Mapping[str, int]]

_NETWORK_ENUMS: _Enums = {
    "dataType": {
        "FloatTy": 0,
        "Float16Ty": 1,
        "Int8QTy": 2,
        "UInt8QTy": 3,
        "Int16QTy": 4,
        "Int32QTy": 5,
        "Int32ITy": 6,
        "Int64ITy": 7,
        "Int8Ty": 8,
        "BFloat16Ty": 11,
    },
    "bufferDirection": {"In": 0, "Out": 1},
}
_NETWORK: _Messages = {
    "IODescriptor": {
        "type": (1, "dataType"),
        "qscale": (2, "float"),
        "qoffset": (3, "int32"),
        "dims": (4, "repeated int32"),
    },
    "IOBinding": {
        "name": (1, "string"),
        "io_initial": (2, "IODescriptor"),
        "io_transformed": (3, "IODescriptor"),
        "is_partial_allowed": (5, "bool"),
    },
    "tensorShape": {"type": (1, "dataType"), "dims": (2, "repeated int32")},
    "IOShapes": {"shapes": (1, "repeated tensorShape")},
    "DMABuffer": {"size": (1, "uint32"), "dir": (2, "bufferDirection")},
    "networkDescriptor": {
        "major_version": (1, "int32"),
        "minor_version": (2, "int32"),
        "network_name": (3, "string"),
        "inputs": (4, "repeated IOBinding"),
        "outputs": (5, "repeated IOBinding"),
        "dma_buffers": (6, "repeated DMABuffer"),
        "num_cores": (7, "int32"),
        "batch_size": (14, "int32"),
        "allowed_shapes": (18, "repeated IOShapes"),
    },
}
_API_ENUMS: _Enums = {
    "IoBufferType": {
        "FLOAT_TYPE": 0,
        "FLOAT_16_TYPE": 1,
        "INT8_Q_TYPE": 2,
        "UINT8_Q_TYPE": 3,
        "INT16_Q_TYPE": 4,
        "INT32_Q_TYPE": 5,
        "INT32_I_TYPE": 6,
        "INT64_I_TYPE": 7,
        "INT8_TYPE": 8,
        "BFLOAT16_TYPE": 11,
        "TYPE_INVALID": 255,
    },
    "IoDirection": {"BUFFER_IO_TYPE_INPUT": 0, "BUFFER_IO_TYPE_OUTPUT": 1},
}
_API: _Messages = {
    "TensorShape": {"type": (1, "IoBufferType"), "dims": (2, "repeated int32")},
    "IoShapes": {"shapes": (1, "repeated TensorShape")},
    "IoBinding": {
        "name": (1, "string"),
        "index": (2, "int32"),
        "type": (3, "IoBufferType"),
        "dir": (4, "IoDirection"),
        "quant_scale": (5, "float"),
        "quant_offset": (6, "int32"),
        "dims": (7, "repeated int32"),
        "size": (8, "uint32"),
        "is_partial_buf_allowed": (10, "bool"),
        "is_valid": (20, "bool"),
    },
    "IoSet": {"name": (1, "string"), "bindings": (2, "repeated IoBinding")},
    "IoDesc": {
        "io_sets": (1, "repeated IoSet"),
        "selected_set": (2, "IoSet"),
        "program_name": (3, "string"),
        "allowed_shapes": (8, "repeated IoShapes"),
    },
}


def _classes(package: str, messages: _Messages, enums: _Enums) -> dict[str, Any]:
    """The message classes of one proto3 file, by name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}_sim.proto", package=package, syntax="proto3")
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for value_name, number in values.items():
            enum.value.add(name=value_name, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _describe(message.field.add(name=field_name, number=number), package, kind, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_types = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in message_types.items()}


def _describe(field: Any, package: str, kind: str, enums: _Enums) -> None:
    label, _, kind = kind.rpartition(" ")
    field.label = _FIELD.LABEL_REPEATED if label else _FIELD.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _FIELD.TYPE_ENUM if kind in enums else _FIELD.TYPE_MESSAGE
    field.type_name = f".{package}.{kind}"


_network = _classes("aicnwdesc", _NETWORK, _NETWORK_ENUMS)
_api = _classes("aicapi", _API, _API_ENUMS)

NetworkDescriptor: Any = _network["networkDescriptor"]
IoDesc: Any = _api["IoDesc"]
IoSet: Any = _api["IoSet"]
IoBinding: Any = _api["IoBinding"]
IoShapes: Any = _api["IoShapes"]
TensorShape: Any = _api["TensorShape"]

API_CONSTANTS: Mapping[str, int] = {name: number for values in _API_ENUMS.values() for name, number in values.items()}
"""The enums' values under the names that clients read from ``QAicApi_pb2``."""

ITEM_BYTES: Mapping[int, int] = {0: 4, 1: 2, 2: 1, 3: 1, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 11: 2}
"""Bytes of one element by the number of its type; both enums share the numbers."""

DESCRIPTION_VERSION = (9, 0)


def io_description(network: Any) -> Any:
    """The ``IoDesc`` of a ``NetworkDescriptor``: inputs as the host gives them, then outputs as it gets them."""
    described = IoDesc(program_name=network.network_name)
    default = described.io_sets.add(name="default")
    bindings = [(0, b, b.io_initial) for b in network.inputs] + [(1, b, b.io_transformed) for b in network.outputs]
    for index, (direction, binding, io) in enumerate(bindings):
        size = ITEM_BYTES[io.type]
        for dim in io.dims:
            size *= dim
        default.bindings.add(
            name=binding.name,
            index=index,
            type=io.type,
            dir=direction,
            quant_scale=io.qscale,
            quant_offset=io.qoffset,
            dims=io.dims,
            size=size & 0xFFFFFFFF,  # 32 bits, and wraps as on the card
            is_partial_buf_allowed=binding.is_partial_allowed,
            is_valid=True,
        )
    described.selected_set.CopyFrom(default)
    for allowed in network.allowed_shapes:
        shapes = described.allowed_shapes.add()
        for shape in allowed.shapes:
            shapes.shapes.add(type=shape.type, dims=shape.dims)
    return described
