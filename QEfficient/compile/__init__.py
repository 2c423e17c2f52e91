"""One module per compiler. The package is callable too, because ``QEfficient.compile(model)`` is upstream's function
of the same name, and importing any module of a package binds the package in its parent."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from QEfficient.telemetry import turn_off_telemetry


class _CallableStage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See :func:`QEfficient.compat.functional.compile`."""
        return import_module("QEfficient.compat.functional").compile(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableStage

turn_off_telemetry()
