"""Weights that an OpenVINO program reads from the exported graph's data files, so that no disk holds them twice.

In the IR they are parameters. Beside it lies, for each data file, a second IR with nothing but constants, whose bytes
are that file's. :func:`attach_weights` puts those constants in the place of the parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import openvino as ov
import openvino.opset13 as ops

from QEfficient.errors import CompileError, CorruptArtifact

if TYPE_CHECKING:
    import onnx

_ELEMENT_TYPES = {"f32": "FP32", "f16": "FP16", "f64": "FP64", "boolean": "BOOL"}
"""The names of ports' types where they are not those of elements in upper case."""
_COMPARED_BYTES = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are."""

    file: str
    """Relative to the folder of the graph."""
    offset: int
    num_bytes: int


def external_places(graph: onnx.GraphProto) -> dict[str, Place]:
    """The initializers of an ONNX graph that lie in data files, by name."""
    places = {}
    for tensor in graph.initializer:
        if entries := {entry.key: entry.value for entry in tensor.external_data}:
            places[tensor.name] = Place(entries["location"], int(entries["offset"]), int(entries["length"]))
    return places


def detach_weights(model: ov.Model, places: Mapping[str, Place], onnx_folder: Path, folder: Path) -> tuple[str, ...]:
    """Turn the constants of ``model`` that are in data files into parameters, and write what attaches them again.

    Args:
        model: as read from ONNX; changed in place.
        places: of its weights, by the names of the constants.
        onnx_folder: where the data files are.
        folder: where the IR goes.

    Returns:
        The data files.

    Raises:
        CompileError: a constant is not what its data file holds.
    """
    by_file: dict[str, list[tuple[Any, Place]]] = defaultdict(list)
    for constant in model.get_ops():
        place = places.get(constant.get_friendly_name())
        if constant.get_type_name() == "Constant" and place is not None and place.num_bytes == constant.get_byte_size():
            by_file[place.file].append((constant, place))
    for file, constants in by_file.items():
        with (onnx_folder / file).open("rb") as data:
            for constant, place in constants:
                _check_start(data, constant, place)
        _write_constants(folder / f"{file}.xml", constants)
    parameters = [_parameter(constant) for constants in by_file.values() for constant, _ in constants]
    model.add_parameters(parameters)
    return tuple(by_file)


def attach_weights(core: ov.Core, model: ov.Model, folder: Path, data_file: Path) -> None:
    """Undo :func:`detach_weights` for one data file, which is mapped and not read.

    Args:
        core: reads the constants.
        model: the IR as it was read; changed in place.
        folder: where the IR is.
        data_file: the data file, with its name of then.

    Raises:
        CorruptArtifact: the constants are not those of the IR.
    """
    path = folder / f"{data_file.name}.xml"
    parameters = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    for constant in _constants(core.read_model(path, data_file)):
        parameter = parameters.get(constant.get_node().get_friendly_name())
        if parameter is None or not _is_alike(parameter.output(0), constant):
            raise CorruptArtifact(f"{path} has a weight that the graph has not: {constant.get_node()}. Compile again.")
        parameter.output(0).replace(constant)
        model.remove_parameter(parameter)


def _is_alike(parameter: Any, constant: Any) -> bool:
    return bool(
        parameter.get_element_type() == constant.get_element_type()
        and parameter.get_partial_shape() == constant.get_partial_shape()
    )


def _constants(model: ov.Model) -> Iterator[Any]:
    return (result.input(0).get_source_output() for result in model.get_results())


def _parameter(constant: Any) -> Any:
    parameter = ops.parameter(list(constant.shape), constant.get_element_type())
    parameter.set_friendly_name(constant.get_friendly_name())
    constant.output(0).replace(parameter.output(0))
    return parameter


def _check_start(data: Any, constant: Any, place: Place) -> None:
    """A rewrite that left a constant's name and size alone, and not its values, would go unseen."""
    data.seek(place.offset)
    stored = data.read(min(_COMPARED_BYTES, place.num_bytes))
    if constant.data.reshape(-1).view("uint8")[: len(stored)].tobytes() != stored:
        raise CompileError(f"OpenVINO changed the weight '{constant.get_friendly_name()}' while it read the graph.")


def _write_constants(path: Path, constants: list[tuple[Any, Place]]) -> None:
    """An IR whose results are the constants; see OpenVINO's documentation of the format."""
    net = ElementTree.Element("net", name="weights", version="11")
    layers, edges = ElementTree.SubElement(net, "layers"), ElementTree.SubElement(net, "edges")
    for index, (constant, place) in enumerate(constants):
        element_type, shape = constant.get_element_type().get_type_name(), list(constant.shape)
        layer = _layer(layers, 2 * index, constant.get_friendly_name(), "Const")
        data = ElementTree.SubElement(layer, "data", element_type=element_type, shape=",".join(map(str, shape)))
        data.attrib |= {"offset": str(place.offset), "size": str(place.num_bytes)}
        _port(layer, "output", element_type, shape)
        _port(_layer(layers, 2 * index + 1, f"{2 * index}.result", "Result"), "input", element_type, shape)
        ends = {"from-layer": 2 * index, "from-port": 0, "to-layer": 2 * index + 1, "to-port": 0}
        ElementTree.SubElement(edges, "edge", {name: str(end) for name, end in ends.items()})
    ElementTree.ElementTree(net).write(path, encoding="utf-8", xml_declaration=True)


def _layer(layers: ElementTree.Element, index: int, name: str, kind: str) -> ElementTree.Element:
    return ElementTree.SubElement(layers, "layer", id=str(index), name=name, type=kind, version="opset1")


def _port(layer: ElementTree.Element, side: str, element_type: str, shape: list[int]) -> None:
    precision = _ELEMENT_TYPES.get(element_type, element_type.upper())
    port = ElementTree.SubElement(ElementTree.SubElement(layer, side), "port", id="0", precision=precision)
    for size in shape:
        ElementTree.SubElement(port, "dim").text = str(size)
