"""Inputs and outputs as the host sees them: type, shape in each specialization, and whether they are state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import onnx
import onnx_ir as ir

from QEfficient.simulator.compiler.configuration import CustomIO, Symbols
from QEfficient.simulator.description import Binding, Precision, Shape
from QEfficient.simulator.rejection import Rejected

SUFFIXES = ("_InternalRetainedState", "_RetainedState")
_OF_ONNX = {
    ir.DataType.FLOAT: "float",
    ir.DataType.DOUBLE: "float",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "uint8",
    ir.DataType.INT16: "int16",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
    ir.DataType.BOOL: "bool",
}
_FLOATS = frozenset({"float", "float16", "bfloat16"})


def state_input(output: str) -> str | None:
    """``past_key.0_RetainedState`` -> ``past_key.0``; None for an output that is no state."""
    for suffix in SUFFIXES:
        if output.endswith(suffix):
            return output.removesuffix(suffix)
    return None


def bind(
    model: ir.Model,
    specializations: Sequence[Symbols],
    custom: Mapping[str, CustomIO],
    *,
    retained_state: bool,
    hardware: str,
) -> list[Binding]:
    """All bindings, inputs first.

    Args:
        model: the exported graph, or a flat graph with the original types.
        specializations: sizes of the named axes; at least one entry.
        custom: precisions by name.
        retained_state: whether ``X_RetainedState`` is kept on the device as the next ``X``.
        hardware: "ai200" supports bfloat16.

    Raises:
        Rejected: a symbol without a size, specializations with equal input shapes, state without its input or
            output, custom IO for an unknown name.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    states = _states([str(v.name) for v in inputs], [str(v.name) for v in graph.outputs]) if retained_state else {}
    _check_names(custom, [str(v.name) for v in (*inputs, *graph.outputs)], states)
    in_shapes = [tuple(_shape(value, symbols) for symbols in specializations) for value in inputs]
    _check_distinct(in_shapes, len(specializations))
    out_shapes = _output_shapes(model, specializations)
    kept = {*states, *states.values()}
    bindings = [
        _binding(value, index < len(inputs), shapes, custom.get(str(value.name)), value.name in kept, hardware)
        for index, (value, shapes) in enumerate(zip([*inputs, *graph.outputs], [*in_shapes, *out_shapes], strict=True))
    ]
    _check_states(bindings, states)
    return bindings


def _states(inputs: list[str], outputs: list[str]) -> dict[str, str]:
    """State outputs to their inputs."""
    pairs = {output: source for output in outputs if (source := state_input(output)) is not None}
    for output, source in pairs.items():
        if source not in inputs:
            raise Rejected(f"Retained state output {output} has no input {source}.")
    return pairs


def _check_names(custom: Mapping[str, CustomIO], names: Sequence[str], states: Mapping[str, str]) -> None:
    unknown = sorted(set(custom) - set(names))
    if unknown:
        raise Rejected(f"Custom IO names {', '.join(unknown)}, which the network does not have.")
    for output, source in states.items():
        if (output in custom) != (source in custom):
            missing = source if output in custom else output
            raise Rejected(f"Custom IO must list both {source} and {output}; {missing} is missing.")


def _shape(value: ir.Value, symbols: Symbols) -> Shape:
    if value.shape is None:
        raise Rejected(f"{value.name} has no shape.")
    dims = []
    for axis, dim in enumerate(value.shape):
        size = dim if isinstance(dim, int) else symbols.get(str(dim.value))
        if size is None:
            raise Rejected(
                f"Symbol {dim} of {value.name} (axis {axis}) has no size: "
                "give it with -onnx-define-symbol or in every specialization."
            )
        dims.append(size)
    return tuple(dims)


def _check_distinct(in_shapes: Sequence[tuple[Shape, ...]], num_specializations: int) -> None:
    keys = [tuple(shapes[index] for shapes in in_shapes) for index in range(num_specializations)]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise Rejected(
                f"No input that uniquely identifies specialization {index}: "
                f"its inputs have the shapes of specialization {keys.index(key)}."
            )


def _output_shapes(model: ir.Model, specializations: Sequence[Symbols]) -> list[tuple[Shape, ...]]:
    per_specialization = []
    for symbols in specializations:
        try:
            per_specialization.append([_shape(value, symbols) for value in model.graph.outputs])
        except Rejected:
            per_specialization.append(_inferred(model, symbols))
    return [tuple(shapes) for shapes in zip(*per_specialization, strict=True)]


def _inferred(model: ir.Model, symbols: Symbols) -> list[Shape]:
    """Shapes of the outputs, where the exporter left axis names without a size."""
    proto = ir.to_proto(model)
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = symbols[dim.dim_param]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    return [_shape(value, {}) for value in inferred.graph.outputs]


def _binding(
    value: ir.Value, is_input: bool, shapes: tuple[Shape, ...], custom: CustomIO | None, is_state: bool, hardware: str
) -> Binding:
    name = str(value.name)
    graph_type = _OF_ONNX.get(value.dtype) if value.dtype is not None else None
    if graph_type is None:
        raise Rejected(f"{name} is of type {value.dtype}, which no input or output can have.")
    precision = (custom.precision if custom else None) or graph_type
    if precision != graph_type and graph_type not in _FLOATS:
        raise Rejected(f"Custom IO asks for {precision} of {name}, which is {graph_type}.")
    if precision == "bfloat16" and hardware != "ai200":
        raise Rejected(f"{name} is bfloat16, which needs -aic-hw-version=ai200; got {hardware}.")
    if precision == "mxint8" and not is_state:
        raise Rejected(f"Custom IO asks for mxint8 of {name}, which is not a retained state.")
    return Binding(
        name=name,
        is_input=is_input,
        precision=cast("Precision", precision),
        shapes=shapes,
        is_state=is_state,
        is_integer=graph_type not in _FLOATS,
        scale=custom.scale if custom else 1.0,
        offset=custom.offset if custom else 0,
    )


def _check_states(bindings: Sequence[Binding], states: Mapping[str, str]) -> None:
    by_name = {(binding.name, binding.is_input): binding for binding in bindings}
    for output, source in states.items():
        one, other = by_name[source, True], by_name[output, False]
        if one.shapes != other.shapes or len(set(one.shapes)) > 1:
            raise Rejected(
                f"Retained state {source} {one.shapes} and {output} {other.shapes} must have one shape, "
                "the same in all specializations."
            )
        if (one.precision, one.scale, one.offset) != (other.precision, other.scale, other.offset):
            raise Rejected(f"Retained state {source} is {one.precision}, {output} is {other.precision}.")
