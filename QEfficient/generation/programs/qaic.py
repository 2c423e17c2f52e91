"""Programs on Cloud AI 100 and on its simulator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from QEfficient.compile.cloud_ai_100 import sdk_of
from QEfficient.compile.qaic_sdk import import_runtime
from QEfficient.contract import GraphRecord
from QEfficient.errors import NumericError, OptionError
from QEfficient.generation.cloud_infer import QAICInferenceSession
from QEfficient.generation.programs.program import Opening, Shape
from QEfficient.generation.qaic_program import TIMEOUT_VARIABLE, free_devices, installed

if TYPE_CHECKING:
    from QEfficient.targets import Target


def open_program(target: Target, package: Path, record: GraphRecord, opening: Opening) -> CloudAI100Program:
    """See :class:`QEfficient.generation.programs.program.OpenProgram`.

    Raises:
        OptionError: QEFF_DATA_PATH_TIMEOUT_MS is no number of milliseconds.
    """
    device_ids = opening.device_ids
    if device_ids is None:
        device_ids = choose_devices(target, opening.options.num_devices)
    session = QAICInferenceSession(
        package / record.folder, device_ids, data_path_timeout_ms=timeout_ms(), sdk=sdk_of(target)
    )
    return CloudAI100Program(session)


def choose_devices(target: Target, count: int) -> list[int]:
    """The devices with the most free cores, for a package whose caller names none.

    Raises:
        TargetUnavailable: there is no runtime, or there are too few devices.
    """
    return free_devices(import_runtime(installed(sdk_of(target)))[0], count)


def timeout_ms() -> int:
    """How long a run may take, in milliseconds, as the environment says."""
    text = os.environ.get(TIMEOUT_VARIABLE, "120000")
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise OptionError(f"{TIMEOUT_VARIABLE} must be a whole number of milliseconds, got {text!r}.")
    return int(text)


class CloudAI100Program:
    """See :class:`QEfficient.generation.programs.program.Program`."""

    def __init__(self, session: QAICInferenceSession):
        """
        Args:
            session: active. It is closed with the program.
        """
        self.session = session
        self.name = str(session.qpc_path)
        state = {*session.state_names}
        session.skip_buffers(state)
        self.inputs = frozenset(session.input_names) - state
        self.outputs = frozenset(session.output_names) - state
        self.shapes: Sequence[Mapping[str, Shape]] | None = session.specializations
        self._may_skip = {
            name for name in self.outputs if session.bindings[session.binding_index_map[name]].is_partial_buf_allowed
        }
        self._skipped: set[str] = set()
        self._fresh: set[str] = set()
        """State that the next run gets from the host, before the card keeps it again."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        wanted = self.outputs if outputs is None else frozenset(outputs)
        if unknown := sorted(wanted - self.outputs):
            raise OptionError(f"{self.name} has no output '{unknown[0]}'; it has {', '.join(sorted(self.outputs))}.")
        if unknown := sorted(inputs.keys() - self.inputs):
            raise OptionError(f"{self.name} has no input '{unknown[0]}'; it has {', '.join(sorted(self.inputs))}.")
        skipped = self._may_skip - wanted
        if skipped != self._skipped:
            self.session.reset_buffers(self._skipped)
            self.session.skip_buffers(skipped)
            self._skipped = skipped
        results = self.session.run(inputs)
        if self._fresh:
            self.session.skip_buffers(self._fresh)
            self._fresh = set()
        return {name: results[name] for name in wanted}

    def keep(self, inputs: Mapping[str, np.ndarray]) -> None:
        self.session.set_buffers({name: self._narrowed(name, value) for name, value in inputs.items()})
        self._fresh |= inputs.keys() & {*self.session.state_names}

    def _narrowed(self, name: str, value: np.ndarray) -> np.ndarray:
        """``value`` in the type of the program's input."""
        index = self.session.binding_index_map.get(name)
        if index is None:
            raise OptionError(f"{self.name} has no input '{name}'. Compile again.")
        dtype = self.session.aic_to_np_dtype_mapping[self.session.bindings[index].type]
        with np.errstate(over="ignore"):
            narrowed = value.astype(dtype)
        if not np.isfinite(narrowed).all():
            raise NumericError(
                f"'{name}' has values up to {np.abs(value).max():.3g}, beyond the range of {dtype}: compile with "
                "precision='fp32'."
            )
        return narrowed

    def close(self) -> None:
        self.session.close()
