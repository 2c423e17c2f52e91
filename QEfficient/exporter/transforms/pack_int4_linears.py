"""As :mod:`pack_linears`, for weights of up to 4 bits with integer zero points: the card's compiler is known to take no
others."""

from __future__ import annotations

import onnx_ir as ir

from QEfficient.exporter.transforms.pack_linears import Layout, pack


def takes(layout: Layout) -> bool:
    """Whether weights of this layout stay packed."""
    return layout.bits == 4 and layout.zero_points != "real"


def apply(model: ir.Model) -> int:
    """Rewrite ``model`` in place; returns the number of products."""
    return pack(model, takes)
