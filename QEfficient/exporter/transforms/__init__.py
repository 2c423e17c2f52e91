"""Rewrites of an ONNX graph, one module each, with one function: ``apply(model) -> int``, how many places changed.

A target's row names those that it wants, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import onnx_ir as ir


def apply_transforms(model: ir.Model, names: Iterable[str]) -> dict[str, int]:
    """Apply the rewrites called ``names`` to ``model``, in place.

    Returns:
        How many places each of them changed.
    """
    return {name: import_module(f"{__name__}.{name}").apply(model) for name in names}
