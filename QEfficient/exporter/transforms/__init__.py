"""Rewrites of an ONNX graph, one module each, with one function: ``apply(model) -> int``, the number of changes.

A target lists its rewrites, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import onnx_ir as ir


def apply_transforms(model: ir.Model, names: Iterable[str]) -> dict[str, int]:
    """Apply the rewrites called ``names`` to ``model``, in place.

    Returns:
        The number of changes by each of them.
    """
    return {name: import_module(f"{__name__}.{name}").apply(model) for name in names}
