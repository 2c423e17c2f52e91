"""What a compiler is asked to make, as a value: a task fills it, a target's compiler reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from QEfficient.options import CompileOptions

RETAINED = "_RetainedState"
"""Ends the name of an output that becomes the input of the same name without it."""
COMMAND_FILE = "command.txt"
"""What a dry run leaves beside the compiler's files: its command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Specialization:
    """One shape that the compiled model can run at."""

    name: str
    """"Prefill", "Decode" and so on; unique in a job."""
    symbols: Mapping[str, int]
    """The size of each named axis of the graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileJob:
    """How to compile one graph."""

    specializations: tuple[Specialization, ...]
    """In the order that clients rely on: the first prefills, if any does."""
    options: CompileOptions

    def fixed_symbols(self) -> dict[str, int]:
        """The axes that have one size in all specializations."""
        if not self.specializations:
            return {}
        first, *others = (specialization.symbols for specialization in self.specializations)
        return {name: size for name, size in first.items() if all(other.get(name) == size for other in others)}

    def option(self, name: str) -> Any:
        """The option called ``name``, or None where the task has none."""
        return getattr(self.options, name, None)
