"""ONNX to an OpenVINO IR, for the ``cpu`` target. It runs nothing.

OpenVINO compiles to machine code when a program opens, for the processor of that machine. The IR holds the weights that
were compressed; without compression they stay in the exported graph's data files. Sizes of the state, threads and
precision are set when a program opens, so that one IR serves every context length and any number of slots.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino as ov

from QEfficient.compile.openvino_context import add_context_extensions
from QEfficient.compile.openvino_paged import custom_operators
from QEfficient.compile.openvino_properties import check_storable
from QEfficient.compile.openvino_rewrites import fold_weight_transposes, separate_integer_reductions
from QEfficient.compile.openvino_weights import detach_weights, external_places
from QEfficient.contract import Binding, CompiledGraph, CompileJob
from QEfficient.errors import CompileError
from QEfficient.options import CompileOptions
from QEfficient.store.files import check_free_space, storage_errors
from QEfficient.targets import Target

if TYPE_CHECKING:
    import onnx

MODEL_FILE = "model.xml"


def load_compiler(target: Target, options: CompileOptions) -> OpenVINOCompiler:
    """OpenVINO's compiler, which runs in this process."""
    return OpenVINOCompiler()


class OpenVINOCompiler:
    """See :class:`QEfficient.contract.Compiler`."""

    def check(self, job: CompileJob) -> None:
        check_storable(job.options.compiler_options)

    def key(self, job: CompileJob) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "weight_format": job.options.weight_format,
            "toolchain": {"openvino": ov.get_version(), "nncf": version("nncf")},
        }

    def compile(self, onnx_path: Path, folder: Path, job: CompileJob) -> CompiledGraph:
        return compile_onnx(onnx_path, folder, job)


def compile_onnx(onnx_path: Path, folder: Path, job: CompileJob) -> CompiledGraph:
    """Write the IR of ``onnx_path`` into ``folder``; every axis that has a name stays open.

    Raises:
        CompileError: OpenVINO could not read or convert the model.
        StorageError: the disk is full.
    """
    import onnx

    core, graph = ov.Core(), onnx.load(onnx_path, load_external_data=False).graph
    axes = _axis_names(graph)
    add_context_extensions(core)
    try:
        with custom_operators(core):
            model = core.read_model(onnx_path)
            fold_weight_transposes(model)
            separate_integer_reductions(model)
            model = compress_weights(model, job.options.weight_format)
            inputs, outputs = _bindings(model.inputs, axes), _bindings(model.outputs, axes)
            data_files: tuple[str, ...] = ()
            if job.options.weight_format is None:
                data_files = detach_weights(model, external_places(graph), onnx_path.parent, folder)
            num_bytes = _constant_bytes(model)
            check_free_space(folder, num_bytes, "the compiled weights")
            with storage_errors(folder, only_under=folder, needed_bytes=num_bytes):
                ov.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)
                _remove_empty(folder / MODEL_FILE)
            return CompiledGraph(inputs=inputs, outputs=outputs, data_files=data_files)
    except RuntimeError as error:
        raise CompileError(f"OpenVINO {ov.get_version()} could not compile {onnx_path.name}: {error}") from error


def _remove_empty(path: Path) -> None:
    """Remove the file of constants of an IR that has none, which needs no such file."""
    constants = path.with_suffix(".bin")
    if constants.is_file() and not constants.stat().st_size:
        constants.unlink()


def _constant_bytes(model: ov.Model) -> int:
    return sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")


def _axis_names(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    return {
        value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.output]
    }


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
    """Keep a library's tables and progress bars off the terminal, which shows the progress of this library."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        logger.setLevel(level)


def port_shape(port: Any) -> tuple[int, ...]:
    """Sizes of an input or output of a graph; -1 where they vary."""
    return tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape())


def _bindings(ports: list[Any], axes: dict[str, tuple[str, ...]]) -> dict[str, Binding]:
    return {
        port.get_any_name(): Binding(
            dtype=port.get_element_type().get_type_name(),
            shape=port_shape(port),
            axes=axes.get(port.get_any_name(), ()),
        )
        for port in ports
    }
