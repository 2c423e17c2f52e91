"""``c -> clip(c, -65504, 65504)`` for every float constant and weight, because the card computes in fp16.

A constant beyond its range, such as float32's lowest number in a mask, would become infinite there, and a difference
of two of them not a number. −inf itself stays: it says "never", and a graph that has it means it.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

logger = logging.getLogger(__name__)

GREATEST = 65504.0
_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def apply(model: ir.Model) -> int:
    """Clip in place."""
    count = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _WIDE:
            continue
        if isinstance(tensor, ir.LazyTensor):
            value.const_value = _clipped_later(tensor)
        elif _is_beyond(held := tensor.numpy()):
            value.const_value = ir.tensor(_clipped(held), dtype=tensor.dtype, name=tensor.name)
            count += 1
    return count


def _is_beyond(array: np.ndarray) -> bool:
    return bool(np.any((np.abs(array) > GREATEST) & ~np.isneginf(array)))


def _clipped(array: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(array), array, np.clip(array, -GREATEST, GREATEST)).astype(array.dtype)


def _clipped_later(lazy: ir.LazyTensor) -> ir.LazyTensor:
    """A weight is read when the file is written, so it is clipped then."""

    def read() -> ir.TensorProtocol:
        tensor = lazy.raw()
        if not isinstance(tensor, TorchTensor):
            return ir.tensor(_clipped(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)
        held: torch.Tensor = tensor.raw
        low, high = torch.aminmax(held) if held.numel() else (held.new_zeros(()), held.new_zeros(()))
        if float(low) >= -GREATEST and float(high) <= GREATEST:
            return tensor
        logger.warning(
            "Weight '%s' reaches %.3g, beyond fp16: it is clipped to %g.", lazy.name, float(held.abs().max()), GREATEST
        )
        return TorchTensor(held.clamp(-GREATEST, GREATEST), name=tensor.name)

    return ir.LazyTensor(read, dtype=lazy.dtype, shape=lazy.shape, name=lazy.name, cache=False)
