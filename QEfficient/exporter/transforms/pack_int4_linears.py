"""As :mod:`pack_linears`, for weights of up to 4 bits: the card's compiler is known to take no others."""

from __future__ import annotations

import onnx_ir as ir

from QEfficient.exporter.transforms.pack_linears import pack

BITS = (4,)


def apply(model: ir.Model) -> int:
    """Rewrite ``model`` in place; returns the number of products."""
    return pack(model, BITS)
