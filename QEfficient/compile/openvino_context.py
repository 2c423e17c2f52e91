"""The functions of the retained graph in OpenVINO's operators, which its ONNX reader asks for one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.frontend.onnx import ConversionExtension

from QEfficient.compile.native_callbacks import native_callback

DOMAIN = "com.qualcomm.cloud"


def add_context_extensions(core: ov.Core) -> None:
    """Let ``core`` read graphs that call ``com.qualcomm.cloud`` functions."""
    converters = {"CtxScatter": _scatter, "CtxScatterCB": _scatter, "CtxGather": _gather, "CtxGatherCB": _gather}
    for name, converter in converters.items():
        core.add_extension(ConversionExtension(name, DOMAIN, converter))


@native_callback
def _scatter(node: Any) -> list[Any]:
    """data, [batch_index,] position_ids, updates"""
    data, *rows, positions, updates = _inputs(node)
    shape = ops.slice(ops.shape_of(updates), _ints(0), _ints(3), _ints(1))  # [B, H, S]
    row = ops.unsqueeze(rows[0], _ints(2)) if rows else ops.unsqueeze(_range(shape, 0), _ints(1, 2))
    head = ops.unsqueeze(_range(shape, 1), _ints(0, 2))
    slot = ops.unsqueeze(positions, _ints(1))
    parts = [
        ops.unsqueeze(ops.broadcast(part, shape, broadcast_spec="BIDIRECTIONAL"), _ints(3))
        for part in (row, head, slot)
    ]
    return [ops.scatter_nd_update(data, ops.concat(parts, 3), updates).output(0)]


@native_callback
def _gather(node: Any) -> list[Any]:
    """data, [batch_index,] ctx_indices, comp_ctx_len"""
    data, *rows, indices, length = _inputs(node)
    if rows:
        data = ops.gather(data, ops.squeeze(rows[0], _ints(1)), _ints(0)).output(0)
    if not _is_zero(length):
        data = ops.gather(data, ops.squeeze(indices, _ints(0, 1)), _ints(2)).output(0)
    return [data]


def _is_zero(length: Any) -> bool:
    """Whether all slots are read, in their order."""
    node = length.get_node()
    return bool(node.get_type_name() == "Constant" and node.data.size == 1 and node.data.item() == 0)


def _inputs(node: Any) -> list[Any]:
    return [node.get_input(index) for index in range(node.get_input_size())]


def _range(shape: Any, axis: int) -> Any:
    stop = ops.gather(shape, ops.constant(np.array(axis, np.int64)), _ints(0))
    return ops.range(ops.constant(np.array(0, np.int64)), stop, ops.constant(np.array(1, np.int64)), "i64")


def _ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))
