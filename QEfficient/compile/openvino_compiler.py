"""ONNX to an OpenVINO IR with compressed weights, for the ``cpu`` target. It runs nothing.

OpenVINO compiles to machine code when a session opens, for the processor that it finds there; what takes long and
what is stored is this: reading, compressing and making the state internal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import openvino as ov
from openvino._offline_transformations import apply_make_stateful_transformation

from QEfficient.compile.openvino_context import add_context_extensions
from QEfficient.compile.openvino_paged import add_extensions, is_paged
from QEfficient.compile.openvino_rewrites import fold_weight_transposes
from QEfficient.contract import RETAINED, CompileJob
from QEfficient.errors import CompileError
from QEfficient.targets import Target

MODEL_FILE = "model.xml"


def check(job: CompileJob, target: Target) -> None:
    """Nothing to find before the export that the options have not found."""


def key_ingredients(job: CompileJob, target: Target) -> dict[str, Any]:
    """Everything that decides what :func:`compile_onnx` makes of a graph."""
    from importlib.metadata import version

    return {
        "symbols": job.fixed_symbols(),
        "weight_format": job.options.weight_format,
        "toolchain": {"openvino": ov.get_version(), "nncf": version("nncf")},
    }


def compile_onnx(onnx_path: Path, folder: Path, job: CompileJob, target: Target) -> dict[str, Any]:
    """Write the IR of ``onnx_path`` into ``folder``.

    Args:
        onnx_path: a graph of one of the tasks.
        folder: an existing folder.
        job: the axes of the state are fixed to its sizes; the others vary from step to step.
        target: the row that this is for.

    Returns:
        The manifest's ``inputs`` and ``outputs``: name to dtype and shape (−1 where it varies).

    Raises:
        CompileError: OpenVINO could not read or write the model.
    """
    core = ov.Core()
    add_extensions(core)
    add_context_extensions(core)
    try:
        model = core.read_model(onnx_path)
        _bind_state(model, job.fixed_symbols(), _axis_names(onnx_path))
        fold_weight_transposes(model)
        model = compress_weights(model, job.options.weight_format)
        if not is_paged(model):
            _keep_state_inside(model)
        ov.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        raise CompileError(f"OpenVINO {ov.get_version()} could not compile {onnx_path.name}: {error}") from error
    return {"inputs": _bindings(model.inputs), "outputs": _bindings(model.outputs)}


def _axis_names(onnx_path: Path) -> dict[str, list[str]]:
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    return {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in graph.input}


def _bind_state(model: ov.Model, symbols: Mapping[str, int], axes: Mapping[str, list[str]]) -> None:
    """Fix the named axes of the state that ``symbols`` gives a size."""
    state = [port for port in model.inputs if f"{port.get_any_name()}{RETAINED}" in _names(model.outputs)]
    symbols = {name: size for name, size in symbols.items() if any(name in axes[p.get_any_name()] for p in state)}
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        for axis, name in enumerate(axes[port.get_any_name()]):
            if name in symbols:
                shape[axis] = symbols[name]
        shapes[port] = shape
    model.reshape(shapes)


def compress_weights(model: ov.Model, weight_format: str | None) -> ov.Model:
    """Weight-only quantisation: int8 per channel, or int4 in groups with the first and last layers in int8."""
    if weight_format is None:
        return model
    import nncf

    modes = {"int8": nncf.CompressWeightsMode.INT8_SYM, "int4": nncf.CompressWeightsMode.INT4_SYM}
    extra = {}
    if weight_format == "int4":
        adjust = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        extra = {"group_size": 64, "ratio": 1.0, "advanced_parameters": adjust}
    with _quiet("nncf"):
        return nncf.compress_weights(model, mode=modes[weight_format], **extra)


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Keep a library's tables and progress bars off the terminal: ours says what is going on."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        logger.setLevel(level)


def _keep_state_inside(model: ov.Model) -> None:
    """Turn each ``x`` to ``x_RetainedState`` pair into a variable that OpenVINO holds between steps."""
    outputs = _names(model.outputs)
    pairs = {name: f"{name}{RETAINED}" for name in _names(model.inputs) if f"{name}{RETAINED}" in outputs}
    if pairs:
        apply_make_stateful_transformation(model, pairs)


def _names(ports: list[Any]) -> list[str]:
    return [port.get_any_name() for port in ports]


def _bindings(ports: list[Any]) -> dict[str, Any]:
    return {
        port.get_any_name(): {
            "dtype": port.get_element_type().get_type_name(),
            "shape": [-1 if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape()],
        }
        for port in ports
    }
