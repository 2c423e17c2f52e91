"""Writes what a program gets and gives: raw files, and a list of them as ``qaic-runner --aic-batch-json-input`` reads
it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.generation.programs.program import Program
from QEfficient.store.files import storage_errors

FILE = "aic_batch_io.json"


class Recorder:
    """A folder of runs. An older list in it is replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._runs: list[list[dict[str, Any]]] = []
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def num_runs(self) -> int:
        """Runs that were written."""
        return len(self._runs)

    def add(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Write a run's buffers.

        Raises:
            StorageError: the disk is full or not writable.
        """
        folder = f"run_{len(self._runs):04}"
        files = []
        with storage_errors(self.folder):
            (self.folder / folder).mkdir(exist_ok=True)
            for direction, buffers in (("in", inputs), ("out", outputs)):
                for name, buffer in buffers.items():
                    path = f"{folder}/{name.replace('/', '_')}.raw"
                    np.ascontiguousarray(buffer).tofile(self.folder / path)
                    files.append(
                        {
                            "path": path,
                            "io-direction": direction,
                            "elem-size": buffer.dtype.itemsize,
                            "map-to": name,
                            "dims": list(buffer.shape),
                        }
                    )
        self._runs.append(files)

    def finish(self) -> None:
        """Write the list."""
        with storage_errors(self.folder):
            (self.folder / FILE).write_text(json.dumps({"IO-files": self._runs}, indent=2) + "\n", encoding="utf-8")


class RecordedProgram:
    """A program whose runs are written. See :class:`QEfficient.generation.programs.program.Program`."""

    def __init__(self, program: Program, recorder: Recorder):
        self.program, self._recorder = program, recorder
        self.name, self.inputs, self.outputs, self.shapes = (
            program.name,
            program.inputs,
            program.outputs,
            program.shapes,
        )

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        results = self.program.run(inputs, outputs)
        self._recorder.add(inputs, results)
        return results

    def keep(self, inputs: Mapping[str, np.ndarray]) -> None:
        self.program.keep(inputs)

    def close(self) -> None:
        self.program.close()
