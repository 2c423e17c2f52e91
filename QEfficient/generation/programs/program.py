"""The interface of a loaded compiled graph, for all targets. Sessions build on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from QEfficient.contract import GraphRecord, OpenOptions

if TYPE_CHECKING:
    from QEfficient.targets import Target

Shape = tuple[int, ...]


class Program(Protocol):
    """A compiled graph with its state, loaded and ready to run. For one thread at a time."""

    name: str
    """For messages: where it was loaded from."""
    inputs: frozenset[str]
    """Names of what :meth:`run` takes; the state stays inside."""
    outputs: frozenset[str]
    """Names of what :meth:`run` can return."""
    shapes: Sequence[Mapping[str, Shape]] | None
    """Each compiled set of shapes by name, the state's included; None where any shape runs."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: every name of ``inputs``, C-contiguous, in one of ``shapes``.
            outputs: those to return, also the ``extra_outputs`` of :class:`Opening`; None: all of ``outputs``.

        Returns:
            Arrays by name. They are valid until the next run, and read only.

        Raises:
            OptionError: an input is missing, unknown, or of another dtype or shape; an output is unknown.
            LifecycleError: the program is closed.
            DeviceError: the device failed, or did not answer in time.
        """
        ...

    def keep(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Set inputs that the runs from now on have without being told, until they are set again.

        Args:
            inputs: float32, of any names; also the state's, which begins the next run with them.

        Raises:
            OptionError: an input is unknown, or of another shape.
            NumericError: a value is beyond the range of the input's type.
            LifecycleError: the program is closed.
        """
        ...

    def close(self) -> None:
        """Release its memory and devices. Closing again does nothing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """How to open a compiled graph."""

    options: OpenOptions
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the state's named axes, for programs that settle them at open."""
    device_ids: Sequence[int] | None = None
    """None: the first ones. No effect on targets without devices."""
    extra_outputs: Sequence[str] = ()
    """Inner values to output too, if the program can."""


class OpenProgram(Protocol):
    """Opens a compiled graph on a target."""

    def __call__(self, target: Target, package: Path, record: GraphRecord, opening: Opening) -> Program:
        """
        Args:
            target: the target that the package was compiled for.
            package: the package's folder.
            record: the graph.
            opening: how to open it.

        Raises:
            TargetUnavailable: the target's runtime or its devices are not here.
            CapacityError: memory or cores are not free.
            CorruptArtifact: the files are not what the package says.
        """
        ...
