"""The life of a program in the card's runtime: load, activate, run, unload. Every failure raises a ``QEffError``.

The runtime is imported when a program is opened, not earlier.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from QEfficient.compile.qaic_sdk import QaicSDK, import_runtime, why_cannot_run
from QEfficient.compile.qpc import HEADER, MAGIC, QPC_FILE, QPC_FOLDER
from QEfficient.errors import (
    ArtifactNotFound,
    CapacityError,
    CorruptArtifact,
    DeviceError,
    LifecycleError,
    OptionError,
    QEffError,
    TargetUnavailable,
)
from QEfficient.forks import leave_to_parent
from QEfficient.store.files import user_path

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "QEFF_DATA_PATH_TIMEOUT_MS"
"""The environment variable with the timeout of sessions that this library opens itself."""

_INVALID, _NO_DEVICE, _TIMED_OUT, _DEVICE_FAULTS = 6, 5, 9, (300, 500)
_SEE_LOG = "The runtime's log says why; enable_debug_logs=True makes it say more."
_STATUSES: dict[int, tuple[str, type[QEffError], str]] = {
    1: ("QS_PERM", TargetUnavailable, "This user may not use the card: add it to the group 'qaic', and log in again."),
    2: ("QS_AGAIN", CapacityError, "The card is busy: try again, or close other programs that use it."),
    3: ("QS_NOMEM", CapacityError, "Out of memory: close other programs on the card or the host."),
    4: ("QS_BUSY", LifecycleError, "An earlier run has not finished: deactivate() and activate() the session."),
    5: ("QS_NODEV", TargetUnavailable, "There is no such device, or it is not ready: see `qaic-util -q`."),
    6: ("QS_INVAL", LifecycleError, "The runtime refuses the call in this state: open the session again."),
    7: ("QS_NOSPC", CapacityError, "The card has no room left: close other programs that use it."),
    8: ("QS_BADFD", DeviceError, "The connection to the card is lost: open the session again."),
    10: ("QS_PROTOCOL", TargetUnavailable, "Library and firmware do not fit: see `qaic-version-util`."),
    11: ("QS_UNSUPPORTED", TargetUnavailable, "This SDK or card cannot do it: see `qaic-version-util`."),
    12: ("QS_DATA_CRC_ERROR", CorruptArtifact, "The program is damaged: compile it again."),
    300: ("QS_DEV_ERROR", DeviceError, _SEE_LOG),
    500: ("QS_ERROR", DeviceError, _SEE_LOG),
}


class QaicProgram:
    """One program on one or several devices.

    Attributes:
        path: the folder with ``programqpc.bin``.
        runtime: the SDK's module ``qaicrt``.
        api: its module ``QAicApi_pb2``.
        description: the program's ``IoDesc``.
        is_active: whether it has cores and memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device_ids: Sequence[int] | None,
        sdk: QaicSDK | None,
        timeout_ms: int,
        enable_debug_logs: bool,
    ):
        """Arguments and errors as of :class:`QEfficient.generation.cloud_infer.QAICInferenceSession`."""
        if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int) or timeout_ms < 1:
            raise OptionError(f"data_path_timeout_ms must be a whole number of at least 1, got {timeout_ms!r}.")
        self.path, self.is_active = find_qpc(path), False
        self._program: Any = None
        self._exec_obj: Any = None
        self._has_stalled, self._timeout_ms = False, timeout_ms
        self.runtime, self.api = import_runtime(installed(sdk))
        self.qids = self._choose_devices(device_ids)
        self._pid = os.getpid()
        self._load(self._read(), enable_debug_logs)
        leave_to_parent(self)

    def natives(self) -> list[object]:
        """See :class:`QEfficient.forks.NativeOwner`."""
        return [self._exec_obj, self._program, self._queue, self._context]

    def _choose_devices(self, device_ids: Sequence[int] | None) -> list[int]:
        if device_ids is None:
            return free_devices(self.runtime, 1)
        ids = list(device_ids) if isinstance(device_ids, Sequence) else []
        are_qids = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in ids)
        if not ids or not are_qids or len({*ids}) < len(ids):
            raise OptionError(f"device_ids must be QIDs, each once, such as [0] or [0, 1]; got {device_ids!r}.")
        return ids

    def _read(self) -> Any:
        from google.protobuf.message import DecodeError

        self.description = self.api.IoDesc()
        try:
            qpc = self.runtime.Qpc(str(self.path))
            status, data = qpc.getIoDescriptor()
            if int(status) == 0:
                self.description.ParseFromString(bytes(data))
        except (RuntimeError, DecodeError) as error:
            raise CorruptArtifact(f"{self.path} is not a program for this card: {error}. Compile it again.") from error
        self._check(status, "read")
        return qpc

    def _load(self, qpc: Any, enable_debug_logs: bool) -> None:
        properties = self.runtime.QAicProgramProperties()
        properties.dataPathTimeoutMs = self._timeout_ms
        is_several = len(self.qids) > 1
        if is_several:
            properties.devMapping = ":".join(map(str, self.qids))
        with self._refusals("open"):
            self._context = self.runtime.Context(self.runtime.QIDList(self.qids))
            if enable_debug_logs:
                self._check(self._context.setLogLevel(self.runtime.QLogLevel.QL_DEBUG), "set the log level of")
            self._queue = self.runtime.Queue(self._context, self.qids[0])
            program = self.runtime.Program(self._context, None if is_several else self.qids[0], qpc, properties)
            self._check(program.load(), "load")
        self._program = program

    def activate(self) -> None:
        """Take cores and memory; does nothing if the program is active.

        Raises:
            CapacityError: they are not free.
            LifecycleError: it is closed.
        """
        self._check_open()
        if self.is_active:
            return
        with self._refusals("activate"):
            self._check(self._program.activate(), "activate")
            self.is_active, self._has_stalled = True, False
            try:
                self._exec_obj = self.runtime.ExecObj(self._context, self._program)
            except BaseException:
                self.deactivate()
                raise

    def deactivate(self) -> None:
        """Release cores and memory; does nothing if the program is not active."""
        self._exec_obj = None  # released first, since it uses the program
        if self.is_active:
            self.is_active = False
            if self._is_ours:
                self._check(self._program.deactivate(), "deactivate")

    def close(self) -> None:
        """Deactivate and unload; a second call does nothing."""
        program = self._program
        try:
            self.deactivate()
        finally:
            self._program = None
            if program is not None and self._is_ours and (status := int(program.unload())):
                logger.warning("%s was not unloaded: status %s.", self.path, status)

    def check_ready(self) -> None:
        """Raises LifecycleError if the program cannot run now."""
        self._check_open()
        if self._exec_obj is None:
            raise LifecycleError(f"{self.path} is not active: call activate() first.")
        if self._has_stalled:
            raise LifecycleError(
                "An earlier run did not finish in time: deactivate() and activate(), or open it again."
            )

    @property
    def _is_ours(self) -> bool:
        """False in a forked child: the connection to the card, and the cores, are the parent's."""
        return os.getpid() == self._pid

    def _check_open(self) -> None:
        if not self._is_ours:
            raise LifecycleError(
                f"The session of {self.path} was opened by the process that forked this one: open it again here."
            )
        if self._program is None:
            raise LifecycleError(f"The session of {self.path} is closed: open another one.")

    def run(self, buffers: list[Any], dims: list[tuple[int, list[int]]]) -> Any:
        """Run once: a buffer per binding to a buffer per binding; ``dims`` are ``(bytes of an element, shape)``.

        Raises:
            DeviceError: the card failed, or did not answer in time.
        """
        with self._refusals("run"):
            self._check(self._exec_obj.setData(buffers, self.runtime.BufferDimensionsVecRef(dims)), "run")
            try:
                self._check(self._queue.enqueue(self._exec_obj), "run")
                self._check(self._exec_obj.waitForCompletion(), "run")
            except (KeyboardInterrupt, SystemExit):
                # The card goes on, and would refuse the next run until it is done.
                self._exec_obj.waitForCompletion()
                raise
            status, results = self._exec_obj.getData()
            self._check(status, "run")
        return results

    @contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        """Turn the runtime's exceptions into errors of this library."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, QEffError):
                raise
            kind = CapacityError if isinstance(error, MemoryError) or doing == "activate" else DeviceError
            raise kind(f"The runtime could not {doing} {self.path} on QID {self._names}: {error}") from error

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self.qids[:8])) + (", ..." if len(self.qids) > 8 else "")

    def _check(self, status: Any, doing: str) -> None:
        code = int(status)
        if code == 0:
            return
        name, kind, advice = _STATUSES.get(code, ("unknown status", DeviceError, _SEE_LOG))
        if code == _TIMED_OUT:
            self._has_stalled = doing == "run"
            name, kind, advice = "QS_TIMEDOUT", DeviceError, self._timeout_advice()
        elif code == _INVALID and doing == "load":
            kind, advice = OptionError, "device_ids must name as many devices as the program was compiled for."
        elif code in _DEVICE_FAULTS and doing in ("load", "activate"):
            kind, advice = CapacityError, self._capacity_advice()
        elif code == _NO_DEVICE:
            advice += f" Devices here: {', '.join(map(str, known_devices(self.runtime))) or 'none'}."
        raise kind(f"Could not {doing} {self.path} on QID {self._names}: {name} ({code}). {advice}")

    def _timeout_advice(self) -> str:
        return (
            f"The card did not answer within data_path_timeout_ms={self._timeout_ms}: give more, or set "
            f"{TIMEOUT_VARIABLE} where a package is opened. What the card keeps is not known now: deactivate() and "
            "activate(), or open it again, before the next run."
        )

    def _capacity_advice(self) -> str:
        """The free cores and memory of the devices, as far as they report them, and what to do."""
        free = ""
        for qid in self.qids:
            status, info = self.runtime.Util().getResourceInfo(qid)
            if int(status) == 0:
                free += (
                    f" QID {qid} has {int(info.nspFree)} of {int(info.nspTotal)} cores and {int(info.dramFree)} of "
                    f"{int(info.dramTotal)} MB free."
                )
        return (
            f"Most often cores or memory are not free.{free} Compile with fewer num_cores, give other device_ids, or "
            "close what runs there; the runtime's log says which."
        )


def known_devices(runtime: Any) -> list[int]:
    """QIDs of the devices that a runtime detects.

    Args:
        runtime: the SDK's module ``qaicrt``.
    """
    status, ids = runtime.Util().getDeviceIds()
    return [int(qid) for qid in ids] if int(status) == 0 else []


def free_devices(runtime: Any, count: int) -> list[int]:
    """The devices with the most free cores, those that come first where several have as many.

    Args:
        runtime: the SDK's module ``qaicrt``.
        count: how many.

    Raises:
        TargetUnavailable: there are fewer.
    """
    qids = known_devices(runtime)
    if len(qids) < count:
        detected = "no card" if not qids else f"{len(qids)} devices, and {count} are needed"
        raise TargetUnavailable(f"The runtime detects {detected}: see `qaic-util -q`.")

    def num_used(qid: int) -> int:
        status, info = runtime.Util().getResourceInfo(qid)
        return -int(info.nspFree) if int(status) == 0 else 0

    return sorted(sorted(qids, key=num_used)[:count])


def find_qpc(path: str | os.PathLike[str]) -> Path:
    """The folder with ``programqpc.bin``: ``path``, its ``qpc``, or where ``path`` is that file.

    Raises:
        ArtifactNotFound: there is none.
        CorruptArtifact: the file has fewer bytes than it says.
    """
    root = user_path(path, "The path of a compiled program")
    folders = [root.parent] if root.name == QPC_FILE else [root / QPC_FOLDER, root]
    folder = next((folder for folder in folders if (folder / QPC_FILE).is_file()), None)
    if folder is None:
        raise ArtifactNotFound(f"There is no {QPC_FILE} in {' or '.join(map(str, folders))}: compile the model first.")
    program = folder / QPC_FILE
    with program.open("rb") as file:
        header = file.read(HEADER.size)
    size, expected = program.stat().st_size, HEADER.size
    if len(header) == HEADER.size:
        magic, _, _, _, length, _ = HEADER.unpack(header)
        # The header of a program for several devices is not public: the runtime checks other magic numbers.
        expected = length if magic == MAGIC else expected
    if size < expected:
        raise CorruptArtifact(f"{program} is cut short: expected {expected} bytes, got {size}. Compile it again.")
    return folder


def installed(sdk: QaicSDK | None) -> QaicSDK:
    """
    Args:
        sdk: None: the one on this machine.

    Raises:
        TargetUnavailable: there is none.
    """
    installed = sdk or QaicSDK.find()
    if installed is None:
        raise TargetUnavailable(f"The card's runtime cannot be used: {why_cannot_run()}.")
    return installed
