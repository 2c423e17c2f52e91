"""Finds the modules that upstream has and this library has not: thin ones in ``compat/upstream``, and those of
:mod:`QEfficient.compat.moved`, whose names are something else here. Asked after everything else; imports nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_PACKAGE = "QEfficient."
_ROOM = os.path.join(os.path.dirname(__file__), "upstream")


class UpstreamFinder:
    """Finds modules by upstream's names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PACKAGE):
            return None
        parents = fullname.removeprefix(_PACKAGE).split(".")[:-1]
        spec = PathFinder.find_spec(fullname, [os.path.join(_ROOM, *parents)])
        if spec is not None and spec.origin is not None:
            return spec
        from QEfficient.compat.moved import moved_module

        advice = moved_module(fullname)
        return None if advice is None else ModuleSpec(fullname, _MovedModule(advice), is_package=True)  # type: ignore[arg-type]


class _MovedModule:
    """A module without names, which says where they are when one is asked for."""

    def __init__(self, advice: str):
        self.advice = advice

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual empty module will do."""

    def exec_module(self, module: ModuleType) -> None:
        from QEfficient.compat.moved import names_of

        module.__getattr__ = names_of(module.__name__, self.advice)  # type: ignore[method-assign]


def install() -> None:
    """Let ``import`` ask the finder, once in a process."""
    if not any(type(finder).__name__ == UpstreamFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(UpstreamFinder())
