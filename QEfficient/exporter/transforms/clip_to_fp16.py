"""``c -> clip(c, -65504, 65504)`` for every float constant and weight, because the card computes in fp16.

A constant beyond its range, such as float32's lowest number in a mask, would become infinite, and the
difference of two of them NaN. −inf stays: it means "never", and a graph that contains it relies on that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch

from QEfficient.exporter.weights import Weight

logger = logging.getLogger(__name__)

FP16_MAX = 65504.0
_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def apply(model: ir.Model) -> int:
    """Clip in place."""
    count = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _WIDE:
            continue
        if isinstance(tensor, Weight):
            value.const_value = tensor.followed_by(_clip_pieces)
        elif _is_beyond(array := tensor.numpy()):
            value.const_value = ir.tensor(_clipped(array), dtype=tensor.dtype, name=tensor.name)
            count += 1
    return count


def _is_beyond(array: np.ndarray) -> bool:
    return bool(np.any((np.abs(array) > FP16_MAX) & ~np.isneginf(array)))


def _clipped(array: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(array), array, np.clip(array, -FP16_MAX, FP16_MAX)).astype(array.dtype)


def _clip_pieces(name: str, pieces: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """A weight is read when the file is written, so it is clipped then."""
    maximum = 0.0
    for piece in pieces:
        low, high = torch.aminmax(piece) if piece.numel() else (piece.new_zeros(()), piece.new_zeros(()))
        reached = max(-float(low), float(high))
        maximum = max(maximum, reached)
        yield piece.clamp(-FP16_MAX, FP16_MAX) if reached > FP16_MAX else piece
    if maximum > FP16_MAX:
        logger.warning("Weight '%s' reaches %.3g, beyond fp16: it is clipped to %g.", name, maximum, FP16_MAX)
