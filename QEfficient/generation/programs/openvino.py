"""Programs on this machine's processor, through OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino._offline_transformations import apply_make_stateful_transformation

from QEfficient.compile.openvino_compiler import MODEL_FILE, port_shape
from QEfficient.compile.openvino_paged import custom_operators, to_plugin_form
from QEfficient.compile.openvino_weights import attach_weights
from QEfficient.contract import RETAINED, GraphRecord, OpenOptions
from QEfficient.errors import (
    CapacityError,
    CompileError,
    CorruptArtifact,
    DeviceError,
    LifecycleError,
    OptionError,
    QEffError,
)
from QEfficient.forks import leave_to_parent
from QEfficient.generation.programs.program import Opening, Shape
from QEfficient.interrupts import signal_stack_kept
from QEfficient.machine import memory_bytes
from QEfficient.store.files import readable_bytes

if TYPE_CHECKING:
    from QEfficient.targets import Target


def open_program(target: Target, package: Path, record: GraphRecord, opening: Opening) -> OpenVINOProgram:
    """See :class:`QEfficient.generation.programs.program.OpenProgram`."""
    known = record.inputs.keys() | record.outputs.keys()
    return OpenVINOProgram(str(package), compile_for_cpu(package, record, opening), known)


def native_precision() -> str:
    """The fastest precision of this processor with the range of fp32: "bf16" if it is native, else "fp32"."""
    with signal_stack_kept():
        capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


def compile_for_cpu(package: Path, record: GraphRecord, opening: Opening) -> ov.CompiledModel:
    """A graph's IR as an OpenVINO compiled model, its state bound to the sizes of ``opening`` and kept inside.

    Raises:
        CompileError: OpenVINO cannot load it.
    """
    core = ov.Core()
    path = package / record.folder / MODEL_FILE
    try:
        with custom_operators(core), signal_stack_kept():
            model = core.read_model(path)
            for name in record.data_files:
                attach_weights(core, model, path.parent, package / name)
            _check_ports(path, model, record)
            if opening.extra_outputs:
                model.add_outputs(list(opening.extra_outputs))
            _keep_state_inside(model, record, opening.sizes)
            to_plugin_form(model)
            return core.compile_model(model, "CPU", _properties(opening.options))
    except RuntimeError as error:
        raise CompileError(f"OpenVINO could not load {path}: {error}") from error


def _properties(options: OpenOptions) -> dict[str, Any]:
    chosen = options.precision or native_precision()
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[chosen],
    }
    if options.precision == "fp32":
        properties |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    if options.num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.num_threads
    return properties | options.compiler_options


def check_memory(num_bytes: int, what: str) -> None:
    """Refuse state that no memory holds, before any of it is allocated.

    Raises:
        CapacityError: it is larger than this machine's memory.
    """
    memory = memory_bytes()
    if memory is not None and num_bytes > memory:
        raise CapacityError(
            f"{what} takes {readable_bytes(num_bytes)}, and this machine has {readable_bytes(memory)} of memory: open "
            "the package with a smaller ctx_len or full_batch_size."
        )


def _check_ports(path: Path, model: ov.Model, record: GraphRecord) -> None:
    """Compare the graph with what the package says of it, on which the session relies.

    Raises:
        CorruptArtifact: they differ.
    """
    for ports, expected in ((model.inputs, record.inputs), (model.outputs, record.outputs)):
        shapes = {port.get_any_name(): port_shape(port) for port in ports}
        described = {name: binding.shape for name, binding in expected.items()}
        if shapes != described:
            name = next(name for name in [*shapes, *described] if shapes.get(name) != described.get(name))
            raise CorruptArtifact(
                f"{path} is not what its package says: '{name}' has the shape {shapes.get(name)}, expected "
                f"{described.get(name)}. Compile again."
            )


def _keep_state_inside(model: ov.Model, record: GraphRecord, sizes: Mapping[str, int]) -> None:
    """Bind the state's axes, and turn each ``x`` to ``x_RetainedState`` pair into a variable of OpenVINO's."""
    state = {name: f"{name}{RETAINED}" for name in record.inputs if f"{name}{RETAINED}" in record.outputs}
    if not state:
        return
    axes = {axis for name in state for axis in record.inputs[name].axes}
    shapes, num_bytes = {}, 0
    for port in model.inputs:
        shape = port.get_partial_shape()
        for axis, name in enumerate(record.inputs[port.get_any_name()].axes):
            if name in axes and name in sizes:
                shape[axis] = sizes[name]
        shapes[port] = shape
        if shape.is_static and port.get_any_name() in state:
            num_bytes += prod(dim.get_length() for dim in shape) * port.get_element_type().size
    check_memory(num_bytes, "The state")
    model.reshape(shapes)
    apply_make_stateful_transformation(model, state)


@contextmanager
def native_errors(name: str) -> Iterator[None]:
    """Turn what OpenVINO raises while it runs a program into an error of ours.

    Raises:
        DeviceError: it failed.
    """
    try:
        yield
    except QEffError:
        raise
    except RuntimeError as error:
        raise DeviceError(f"OpenVINO could not run {name}: {error}") from error


class OpenVINOProgram:
    """See :class:`QEfficient.generation.programs.program.Program`."""

    def __init__(self, name: str, compiled: ov.CompiledModel, known: AbstractSet[str]):
        """
        Args:
            name: what errors call it.
            compiled: the program.
            known: names that the package has for inputs and outputs. Where OpenVINO drops an operator that changes
                nothing (it adds zeros, or multiplies by ones), what comes before it has both names.
        """
        self.name = name
        self._ports = {
            name: (np.dtype(port.get_element_type().to_dtype()), port_shape(port))
            for port in compiled.inputs
            for name in port.get_names() & known or {port.get_any_name()}
        }
        self.inputs = frozenset(self._ports)
        names = [port.get_names() & known or {port.get_any_name()} for port in compiled.outputs]
        self.outputs = frozenset[str]().union(*names)
        self._known = frozenset(name for port in compiled.outputs for name in port.get_names())
        self.shapes: Sequence[Mapping[str, Shape]] | None = None
        self._kept: dict[str, np.ndarray] = {}
        with native_errors(name):
            self._request: Any = compiled.create_infer_request()
            for variable in self._request.query_state():
                variable.reset()
        leave_to_parent(self)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        request = self._request
        if request is None:
            raise LifecycleError(f"{self.name} is closed: open the package again.")
        brought = {**inputs, **self._kept} if isinstance(inputs, Mapping) else inputs
        self._check(brought, outputs or ())
        with native_errors(self.name):
            request.infer(brought, share_inputs=True)
        return {name: request.get_tensor(name).data for name in (self.outputs if outputs is None else outputs)}

    def keep(self, inputs: Mapping[str, np.ndarray]) -> None:
        for name, value in inputs.items():
            _, shape = self._ports.get(name, (None, None))
            if value.shape != shape:
                raise OptionError(f"{self.name} takes '{name}' of shape {shape}, got {value.shape}.")
        self._kept |= {name: np.ascontiguousarray(value) for name, value in inputs.items()}

    def _check(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        """OpenVINO reads what was there before for an input that is missing, and converts one of another type."""
        if not isinstance(inputs, Mapping) or inputs.keys() != self._ports.keys():
            raise OptionError(
                f"{self.name} takes a dict with {', '.join(sorted(self._ports))}; got "
                f"{', '.join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__}."
            )
        for name, (dtype, shape) in self._ports.items():
            value = inputs[name]
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise OptionError(f"'{name}' must be an array of {dtype}, got {kind}.")
            fits = value.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, value.shape, strict=True))
            if not fits or not value.flags.c_contiguous:
                raise OptionError(
                    f"'{name}' must be {list(shape)}, with any size for -1, and contiguous in memory; got "
                    f"{list(value.shape)}{'' if value.flags.c_contiguous else ', not contiguous'}."
                )
        if unknown := [name for name in outputs if name not in self._known]:
            raise OptionError(f"{self.name} has no output '{unknown[0]}'; it has {', '.join(sorted(self.outputs))}.")

    def natives(self) -> list[object]:
        """See :class:`QEfficient.forks.NativeOwner`."""
        return [self._request]

    def close(self) -> None:
        self._request = None
