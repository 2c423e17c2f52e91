"""Compiles in this process, and drives the runtime as existing clients do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from QEfficient.simulator.compiler import command_line
from QEfficient.simulator.compiler.driver import compile_program
from QEfficient.simulator.runtime import qaicrt
from QEfficient.simulator.runtime.descriptors import API_CONSTANTS, IoDesc
from QEfficient.simulator.versions import DEFAULT_VERSION

PREFILL = {"batch_size": "1", "seq_len": "4", "ctx_len": "8"}
DECODE = {"batch_size": "1", "seq_len": "1", "ctx_len": "8"}
DECODER_FLAGS = ("-retained-state", "-convert-to-fp16", "-aic-num-cores=4")

DTYPES = {
    API_CONSTANTS["FLOAT_TYPE"]: np.dtype(np.float32),
    API_CONSTANTS["FLOAT_16_TYPE"]: np.dtype(np.float16),
    API_CONSTANTS["INT8_Q_TYPE"]: np.dtype(np.int8),
    API_CONSTANTS["UINT8_Q_TYPE"]: np.dtype(np.uint8),
    API_CONSTANTS["INT32_I_TYPE"]: np.dtype(np.int32),
    API_CONSTANTS["INT64_I_TYPE"]: np.dtype(np.int64),
    API_CONSTANTS["INT8_TYPE"]: np.dtype(np.int8),
    API_CONSTANTS["BFLOAT16_TYPE"]: np.dtype(np.uint16),
}


def arguments(
    model: Path,
    folder: Path,
    *flags: str,
    specializations: Sequence[Mapping[str, Any]] | None = None,
    custom_io: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line; configuration files are written beside the output ``folder``."""
    argv = ["-aic-hw", f"-m={model}", f"-aic-binary-dir={folder}", *flags]
    folder.parent.mkdir(parents=True, exist_ok=True)
    if specializations is not None:
        path = folder.with_name(f"{folder.name}.specializations.json")
        path.write_text(json.dumps({"specializations": specializations}))
        argv.append(f"-network-specialization-config={path}")
    if custom_io is not None:
        path = folder.with_name(f"{folder.name}.custom_io.yaml")
        path.write_text(yaml.safe_dump([{"IOName": name, "Precision": p} for name, p in custom_io.items()]))
        argv.append(f"-custom-IO-list-file={path}")
    return argv


def compile_graph(model: Path, folder: Path, *flags: str, version: str = DEFAULT_VERSION, **files: Any) -> Path:
    """The compiled folder; a Rejected is raised as it is."""
    compile_program(command_line.parse(arguments(model, folder, *flags, **files)), version)
    return folder


def state_io(precision: str) -> dict[str, str]:
    """Custom IO of the decoder's state."""
    names = ("past_key.0", "past_value.0")
    return {f"{name}{suffix}": precision for name in names for suffix in ("", "_RetainedState")}


class Session:
    """The call sequence of ``QAICInferenceSession``: buffers stay set until they are replaced."""

    def __init__(self, folder: Path, device_ids: Sequence[int] = (0,), runtime: ModuleType = qaicrt, **properties: Any):
        self.rt = runtime
        self.context = runtime.Context(runtime.QIDList(list(device_ids)))
        self.queue = runtime.Queue(self.context, device_ids[0])
        qpc = runtime.Qpc(str(folder))
        status, data = qpc.getIoDescriptor()
        assert status == runtime.QStatus.QS_SUCCESS
        self.iodesc = IoDesc()
        self.iodesc.ParseFromString(bytes(data))
        self.bindings = self.iodesc.selected_set.bindings
        self.index = {binding.name: binding.index for binding in self.bindings}
        settings = runtime.QAicProgramProperties()
        if len(device_ids) > 1:
            settings.devMapping = ":".join(map(str, device_ids))
        for name, value in properties.items():
            setattr(settings, name, value)
        self.program = runtime.Program(self.context, device_ids[0] if len(device_ids) == 1 else None, qpc, settings)
        assert self.program.load() == runtime.QStatus.QS_SUCCESS
        self.buffers = [runtime.QBuffer(bytes(binding.size)) for binding in self.bindings]
        self.dims = runtime.BufferDimensionsVecRef(
            [(DTYPES[binding.type].itemsize, list(binding.dims)) for binding in self.bindings]
        )

    def activate(self) -> Session:
        assert self.program.activate() == self.rt.QStatus.QS_SUCCESS
        self.exec_obj = self.rt.ExecObj(self.context, self.program)
        return self

    def close(self) -> None:
        del self.exec_obj
        assert self.program.deactivate() == self.rt.QStatus.QS_SUCCESS

    def set(self, arrays: Mapping[str, NDArray]) -> None:
        for name, array in arrays.items():
            self.buffers[self.index[name]] = self.rt.QBuffer(array.tobytes())
            self.dims[self.index[name]] = (array.itemsize, array.shape)

    def skip(self, *names: str) -> None:
        self.set({name: np.array([]) for name in names})

    def skip_state(self) -> Session:
        self.skip(*(name for name in self.index if name.startswith("past_")))
        return self

    def submit(self, arrays: Mapping[str, NDArray]) -> tuple[int, int, int]:
        """Statuses of setData, enqueue and waitForCompletion."""
        self.set(arrays)
        given = self.exec_obj.setData(self.buffers, self.dims)
        queued = self.queue.enqueue(self.exec_obj)
        return given, queued, self.exec_obj.waitForCompletion()

    def run(self, **arrays: NDArray) -> dict[str, NDArray]:
        return self.run_named(arrays)

    def run_named(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs that are not skipped, shaped by the dims that were passed for them."""
        assert self.submit(arrays) == (0, 0, 0)
        status, results = self.exec_obj.getData()
        assert status == self.rt.QStatus.QS_SUCCESS
        return {
            binding.name: np.frombuffer(bytes(results[binding.index]), DTYPES[binding.type]).reshape(
                self.dims[binding.index][1]
            )
            for binding in self.bindings
            if binding.dir == API_CONSTANTS["BUFFER_IO_TYPE_OUTPUT"] and self.buffers[binding.index].size
        }


def run_once(folder: Path, **arrays: NDArray) -> dict[str, NDArray]:
    """Activate, run, deactivate."""
    session = Session(folder).activate()
    try:
        return session.run(**arrays)
    finally:
        session.close()


def ids(*tokens: int) -> NDArray:
    """``[1, tokens]``, as the serving inputs are."""
    return np.array([tokens], np.int64)
