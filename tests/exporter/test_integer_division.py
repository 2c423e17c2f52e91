"""Whole numbers are divided as whole numbers: what a target computes floats in does not change them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from QEfficient.exporter.trace import trace
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph

pytestmark = pytest.mark.xdist_group("decompose")
NUMBERS = torch.tensor([[-479_991, -16, -15, -1, 0, 1, 14, 15, 16, 479_991, 2**31 + 7]])


class Divided(nn.Module):
    def __init__(self, mode: str, dtype: torch.dtype):
        super().__init__()
        self.mode, self.dtype = mode, dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        by_number = torch.div(x.to(self.dtype), 5, rounding_mode=self.mode)
        return by_number + torch.div(x.to(self.dtype), torch.full_like(x, -3, dtype=self.dtype), rounding_mode=self.mode)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_no_float_is_between(mode: str, dtype: torch.dtype) -> None:
    module, lowered = Divided(mode, dtype), SimpleNamespace(module=None)
    sample = GraphInput("x", torch.zeros(3, 7, dtype=torch.int64), {0: "batch_size", 1: "seq_len"})
    typed: Any = lowered
    model = trace(TaskGraph(module.eval(), typed, "test", 1, [sample], ["y"], {}))
    assert not {"Floor", "Trunc"} & {node.op_type for node in model.graph}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": NUMBERS.numpy()})
    assert np.array_equal(result, module(NUMBERS).numpy())
