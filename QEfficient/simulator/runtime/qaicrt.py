"""The SDK's ``qaicrt``, for simulated cards: the same classes, calls, statuses and rules.

As on a card, enqueueing always succeeds, and errors appear when the caller waits for completion: status 300 from
``waitForCompletion``, the reason in the log (logger ``qaicrt``).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from QEfficient.errors import CorruptArtifact
from QEfficient.machine import memory_bytes
from QEfficient.simulator.runtime.descriptors import NetworkDescriptor, io_description
from QEfficient.simulator.runtime.device_information import (
    QDevInfo,
    QDevStatus,
    QPerformanceInfo,
    QResourceInfo,
    describe,
)
from QEfficient.simulator.runtime.devices import DEVICES, machine
from QEfficient.simulator.runtime.executor import Executable, initial_state
from QEfficient.simulator.runtime.inference import Activation, Passed, check_slice, infer
from QEfficient.simulator.runtime.runtime_types import (
    LOGGING_LEVELS,
    BufferDimensionsVecRef,
    QAicProgramProperties,
    QAicQueueProperties,
    QBuffer,
    QIDList,
    QLogLevel,
    QStatus,
)
from QEfficient.simulator.runtime.slicing import BufferSlice, find_starts, parse_slices
from QEfficient.simulator.versions import DEFAULT_VERSION, parse_version

__all__ = [
    "BufferDimensionsVecRef",
    "Context",
    "ExecObj",
    "Program",
    "QAicProgramProperties",
    "QAicQueueProperties",
    "QBuffer",
    "QDevInfo",
    "QDevStatus",
    "QIDList",
    "QLogLevel",
    "QPerformanceInfo",
    "QResourceInfo",
    "QStatus",
    "Qpc",
    "Queue",
    "Util",
]

logger = logging.getLogger("qaicrt")


class Context:
    """Everything of one client."""

    def __init__(self, qids: Iterable[int] | None = None):
        self.qids = QIDList(qids) if qids is not None else Util().getDeviceIds()[1]

    def setLogLevel(self, level: QLogLevel) -> QStatus:
        """From which level on the runtime logs."""
        logger.setLevel(LOGGING_LEVELS[level])
        return QStatus.QS_SUCCESS


class Queue:
    """Takes work for a device."""

    def __init__(self, context: Context, qid: int, properties: QAicQueueProperties | None = None):
        self.context, self.qid = context, qid
        self.properties = properties or QAicQueueProperties()

    @staticmethod
    def initProperties(properties: QAicQueueProperties) -> None:
        """Set the defaults."""
        properties.numThreadsPerQueue = QAicQueueProperties().numThreadsPerQueue

    def enqueue(self, exec_obj: ExecObj) -> QStatus:
        """Hand over what the object holds; returns at once."""
        return exec_obj._submit()


class Qpc:
    """A container on disk: a folder with ``programqpc.bin``.

    Raises:
        RuntimeError: it is missing, or not from the simulator.
    """

    def __init__(self, path: str):
        try:
            self._executable = Executable(Path(path))
            self._options = self._executable.options()
        except CorruptArtifact as error:
            raise RuntimeError(str(error)) from error

    def getIoDescriptor(self) -> tuple[QStatus, bytes]:
        """The serialized ``aicapi.IoDesc``."""
        network = NetworkDescriptor()
        network.ParseFromString(self._executable.network())
        return QStatus.QS_SUCCESS, io_description(network).SerializeToString(deterministic=True)


class Program:
    """A container on one device, or on those of ``properties.devMapping`` with ``device_id`` None."""

    def __init__(
        self, context: Context, device_id: int | None, qpc: Qpc, properties: QAicProgramProperties | None = None
    ):
        self.context, self.qpc = context, qpc
        self.properties = properties or QAicProgramProperties()
        mapping = [int(text) for text in self.properties.devMapping.split(":") if text]
        self._devices = tuple(mapping if device_id is None else [device_id])
        self._is_loaded = False
        self._activation: Activation | None = None
        self._release: Any = None
        self._worker: ThreadPoolExecutor | None = None

    def load(self) -> QStatus:
        """Read the program."""
        present, needed = machine(), self.qpc._options.num_devices
        if len(self._devices) != needed or len(set(self._devices)) != needed:
            logger.error("The program needs %d devices, devMapping gives %s", needed, self._devices)
            return QStatus.QS_INVAL
        if any(not 0 <= device < present.num_devices for device in self._devices):
            logger.error("No such device among %s: there are %d", self._devices, present.num_devices)
            return QStatus.QS_NODEV
        if present.status != "Ready":
            logger.error("Device is in state %s", present.status)
            return QStatus.QS_NODEV
        self.qpc._executable.load()
        self._is_loaded = True
        return QStatus.QS_SUCCESS

    def activate(self) -> QStatus:
        """Reserve cores and memory on every device, and reset the state."""
        if not self._is_loaded:
            return QStatus.QS_INVAL
        if self._activation is not None:
            return QStatus.QS_SUCCESS
        options = self.qpc._options
        memory = memory_bytes()
        if memory is not None and options.state_bytes > memory:
            logger.error("The state takes %d bytes, this machine has %d", options.state_bytes, memory)
            return QStatus.QS_NOMEM
        request = (self._devices, options.num_cores, options.bytes_per_device)
        reason = DEVICES.take(*request)
        if reason:
            logger.error("Activation failed: %s", reason)
            return QStatus.QS_DEV_ERROR
        self._release = weakref.finalize(self, DEVICES.give_back, *request)
        state = {b.name: initial_state(b) for b in options.bindings if b.is_state and b.is_input}
        self._activation = Activation(self.qpc._executable, options, state)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="qaic")
        return QStatus.QS_SUCCESS

    def deactivate(self) -> QStatus:
        """Release cores and memory; the state is lost."""
        if self._activation is None or self._worker is None:
            return QStatus.QS_INVAL
        self._worker.shutdown(wait=True)
        self._activation, self._worker = None, None
        self._release()
        return QStatus.QS_SUCCESS

    def createSlicingSpecHandle(self, specification: str) -> tuple[QStatus, list[BufferSlice] | None]:
        """Read a JSON specification of slices, see :mod:`QEfficient.simulator.runtime.slicing`."""
        try:
            return QStatus.QS_SUCCESS, parse_slices(specification)
        except ValueError as error:
            logger.error("%s", error)
            return QStatus.QS_INVAL, None

    def unload(self) -> QStatus:
        """Unload the program, which must not be active."""
        if self._activation is not None or not self._is_loaded:
            return QStatus.QS_INVAL
        self._is_loaded = False
        return QStatus.QS_SUCCESS


class ExecObj:
    """The buffers of one inference, and its result."""

    def __init__(self, context: Context, program: Program):
        self.context, self.program = context, program
        self._passed: list[Passed] | None = None
        self._arrays: dict[int, NDArray] = {}
        self._starts: dict[int, tuple[int, ...]] = {}
        self._future: Future[tuple[int, list[bytes]]] | None = None
        self._results: list[bytes] | None = None

    def setData(self, buffers: Sequence[Any], dimensions: BufferDimensionsVecRef | None = None) -> QStatus:
        """Set buffers and dims of all bindings, or arrays of some: ``[(index, array), ...]``.

        Arrays are not copied: they must stay alive until the wait is over, and outputs are written into them.
        """
        if self.program._activation is None:
            return QStatus.QS_INVAL
        bindings = self.program.qpc._options.bindings
        if dimensions is None:
            return self._set_arrays(buffers)
        if len(buffers) != len(bindings) or len(dimensions) != len(bindings):
            logger.error("setData got %d buffers and %d dims for %d", len(buffers), len(dimensions), len(bindings))
            return QStatus.QS_INVAL
        passed = [
            Passed(bytes(buffer), int(item_bytes), tuple(int(dim) for dim in dims))
            for buffer, (item_bytes, dims) in zip(buffers, dimensions, strict=True)
        ]
        for binding, one in zip(bindings, passed, strict=True):
            if len(one.data) > one.room(binding):
                logger.error(
                    "%s: %d bytes are more than the buffer of %d", binding.name, one.num_bytes, one.room(binding)
                )
                return QStatus.QS_ERROR
        self._passed, self._arrays, self._starts = passed, {}, {}
        return QStatus.QS_SUCCESS

    def _set_arrays(self, pairs: Sequence[tuple[int, NDArray]]) -> QStatus:
        num_bindings = len(self.program.qpc._options.bindings)
        for index, array in pairs:
            if not 0 <= index < num_bindings or not array.flags.c_contiguous:
                logger.error("setData: binding %d of %d, arrays must be contiguous", index, num_bindings)
                return QStatus.QS_INVAL
        self._passed = None
        self._arrays |= dict(pairs)
        self._starts = {index: start for index, start in self._starts.items() if index not in dict(pairs)}
        return QStatus.QS_SUCCESS

    def setDataWithSlices(
        self, arrays: Sequence[tuple[int, NDArray]], handle: list[BufferSlice], parameters: Sequence[tuple[str, int]]
    ) -> tuple[QStatus, list[BufferSlice] | None]:
        """Set arrays; those that match the specification are parts of their bindings."""
        if self.program._activation is None or self._set_arrays(arrays) != QStatus.QS_SUCCESS:
            return QStatus.QS_INVAL, None
        bindings = self.program.qpc._options.bindings
        try:
            for index, array in arrays:
                starts = find_starts(handle, bindings[index].name, array.itemsize, dict(parameters))
                if starts is not None:
                    check_slice(bindings[index], starts, array.shape)
                    self._starts[index] = starts
        except ValueError as error:
            logger.error("%s", error)
            return QStatus.QS_INVAL, None
        return QStatus.QS_SUCCESS, handle

    def _submit(self) -> QStatus:
        activation, worker = self.program._activation, self.program._worker
        if activation is None or worker is None or (self._passed is None and not self._arrays):
            return QStatus.QS_INVAL
        if self._future is not None and not self._future.done():
            return QStatus.QS_BUSY
        passed = self._passed or [
            Passed.of_array(self._arrays.get(index), self._starts.get(index))
            for index in range(len(activation.options.bindings))
        ]
        self._results = None
        self._future = worker.submit(infer, activation, passed)
        return QStatus.QS_SUCCESS

    def run(self) -> QStatus:
        """Enqueue and wait."""
        status = self._submit()
        return self.waitForCompletion() if status == QStatus.QS_SUCCESS else status

    def waitForCompletion(self) -> QStatus:
        """Wait, and return the status of the inference."""
        if self._future is None:
            return QStatus.QS_INVAL
        timeout_ms = self.program.properties.dataPathTimeoutMs
        try:
            status, results = self._future.result(timeout_ms / 1000 if timeout_ms else None)
        except FutureTimeoutError:
            logger.error("failed to receive response from NW: Connection timed out after %d ms", timeout_ms)
            return QStatus.QS_TIMEDOUT
        self._future = None
        if status == QStatus.QS_SUCCESS:
            self._results = results
            for index, array in self._arrays.items():
                if results[index] and not self.program.qpc._options.bindings[index].is_input:
                    array.reshape(-1).view(np.uint8)[:] = np.frombuffer(results[index], np.uint8)
        return QStatus(status)

    def getData(self) -> tuple[QStatus, list[QBuffer]]:
        """One buffer per binding; empty for inputs and for outputs that were passed empty."""
        if self._results is None:
            return QStatus.QS_INVAL, []
        return QStatus.QS_SUCCESS, [QBuffer(data) for data in self._results]


class Util:
    """What there is."""

    def getDeviceIds(self, kind: int = 0) -> tuple[QStatus, QIDList]:
        """All devices."""
        return QStatus.QS_SUCCESS, QIDList(range(machine().num_devices))

    def getDeviceInfo(self, device_id: int) -> tuple[QStatus, QDevInfo | None]:
        """State and names of one device."""
        if not 0 <= device_id < machine().num_devices:
            return QStatus.QS_NODEV, None
        return QStatus.QS_SUCCESS, describe(device_id)

    def getResourceInfo(self, device_id: int) -> tuple[QStatus, QResourceInfo | None]:
        """Free resources of one device, for this process."""
        status, info = self.getDeviceInfo(device_id)
        return status, None if info is None else info.devData.resourceInfo

    def getPerformanceInfo(self, device_id: int) -> tuple[QStatus, QPerformanceInfo | None]:
        """Clocks of one device."""
        status, info = self.getDeviceInfo(device_id)
        return status, None if info is None else QPerformanceInfo()

    def getAicVersion(self) -> tuple[QStatus, int, int, int, str]:
        """Major, minor, patch and variant of the library."""
        major, minor, patch = (*parse_version(DEFAULT_VERSION), 0)[:3]
        return QStatus.QS_SUCCESS, major, minor, patch, "simulator"

    def checkLibraryVersion(self) -> QStatus:
        """Whether library and driver are compatible."""
        return QStatus.QS_SUCCESS
