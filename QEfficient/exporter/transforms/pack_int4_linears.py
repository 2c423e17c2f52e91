"""As :mod:`pack_linears`, for integers of up to 4 bits with float32 scales and zero points of as many bits: the card's
compiler is known to take no others."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import torch

from QEfficient.exporter import packed_layout
from QEfficient.exporter.packed_layout import Layout
from QEfficient.exporter.transforms.pack_linears import pack
from QEfficient.transformers.checkpoint.packed import Packed


def layout_of(form: Packed) -> Layout | None:
    """How the card's operator stores a weight; None where it cannot."""
    layout = packed_layout.layout_of(form)
    if layout is None or layout.bits != 4 or layout.zero_points == "real":
        return None
    return replace(layout, scales=torch.float32)


def apply(model: ir.Model) -> int:
    """Rewrite ``model`` in place; returns the number of products."""
    return pack(model, layout_of)
