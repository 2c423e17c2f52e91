"""Rounded division of whole numbers, in whole numbers.

torch.onnx writes it as a division of float32. On a target that computes in bf16 or fp16, numbers beyond 256 or 2048 are
rounded first, so that frames counted in samples are off, or beyond the tensor that they index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_div_mode, aten_floor_divide



def _div_mode(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    is_whole = isinstance(other, int) or (hasattr(other, "dtype") and other.dtype.is_integer())
    if not self.dtype.is_integer() or not is_whole or rounding_mode is None:
        return aten_div_mode(self, other, rounding_mode)
    if isinstance(other, int):
        other = op.CastLike(op.Constant(value_int=other), self)
    return op.Div(self, other) if rounding_mode == "trunc" else aten_floor_divide(self, other)


DIVISION_TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.div.Tensor_mode: _div_mode,
    torch.ops.aten.div.Scalar_mode: _div_mode,
}
"""Translations for torch.onnx."""
