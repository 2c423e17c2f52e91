"""The ONNX forms of :mod:`QEfficient.transformers.lowering.kv_cache_ops`.

Reads and writes of state become calls of model-local functions, with the domain and signatures that the card's compiler
and existing clients expect; the rest becomes plain operators.

Shape legend: B rows of this step, S tokens, R rows of the state, C slots of a row, H heads, L slots to read, D size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Op, Opset

from QEfficient.transformers.lowering import kv_cache_ops as context_ops  # noqa: F401  (registers the operators)

DOMAIN = "com.qualcomm.cloud"
_cloud = Opset(DOMAIN, 1)


@script(_cloud, default_opset=op)
def CtxScatter(data, position_ids, updates):  # type: ignore[no-untyped-def]
    """data [B, H, C, D], position_ids [B, S], updates [B, H, S, D] -> [B, H, C, D]"""
    shape = op.Shape(updates, start=0, end=3)
    rows = op.Range(op.Constant(value_int=0), op.Shape(updates, start=0, end=1)[0], op.Constant(value_int=1))
    heads = op.Range(op.Constant(value_int=0), op.Shape(updates, start=1, end=2)[0], op.Constant(value_int=1))
    row = op.Expand(op.Unsqueeze(rows, op.Constant(value_ints=[1, 2])), shape)
    head = op.Expand(op.Unsqueeze(heads, op.Constant(value_ints=[0, 2])), shape)
    slot = op.Expand(op.Unsqueeze(position_ids, op.Constant(value_ints=[1])), shape)
    last = op.Constant(value_ints=[3])
    indices = op.Concat(op.Unsqueeze(row, last), op.Unsqueeze(head, last), op.Unsqueeze(slot, last), axis=3)
    return op.ScatterND(data, indices, updates)


@script(_cloud, default_opset=op)
def CtxScatterCB(data, batch_index, position_ids, updates):  # type: ignore[no-untyped-def]
    """data [R, H, C, D], batch_index [B, 1], position_ids [B, S], updates [B, H, S, D] -> [R, H, C, D]"""
    shape = op.Shape(updates, start=0, end=3)
    heads = op.Range(op.Constant(value_int=0), op.Shape(updates, start=1, end=2)[0], op.Constant(value_int=1))
    row = op.Expand(op.Unsqueeze(batch_index, op.Constant(value_ints=[2])), shape)
    head = op.Expand(op.Unsqueeze(heads, op.Constant(value_ints=[0, 2])), shape)
    slot = op.Expand(op.Unsqueeze(position_ids, op.Constant(value_ints=[1])), shape)
    last = op.Constant(value_ints=[3])
    indices = op.Concat(op.Unsqueeze(row, last), op.Unsqueeze(head, last), op.Unsqueeze(slot, last), axis=3)
    return op.ScatterND(data, indices, updates)


@script(_cloud, default_opset=op)
def CtxGather(data, ctx_indices, comp_ctx_len):  # type: ignore[no-untyped-def]
    """data [B, H, C, D], ctx_indices [1 or B, 1 or H, L], comp_ctx_len = L -> [B, H, L, D]"""
    length = op.Unsqueeze(comp_ctx_len, op.Constant(value_ints=[0]))
    shape = op.Concat(op.Shape(data, start=0, end=2), length, axis=0)
    indices = op.Unsqueeze(op.Expand(ctx_indices, shape), op.Constant(value_ints=[3]))
    return op.GatherND(data, indices, batch_dims=2)


@script(_cloud, default_opset=op)
def CtxGatherCB(data, batch_index, ctx_indices, comp_ctx_len):  # type: ignore[no-untyped-def]
    """data [R, H, C, D], batch_index [B, 1], ctx_indices [1 or B, 1 or H, L], comp_ctx_len -> [B, H, L, D]

    The length is taken from the indices; comp_ctx_len 0: all slots in order.
    """
    heads = op.Range(op.Constant(value_int=0), op.Shape(data, start=1, end=2)[0], op.Constant(value_int=1))
    batch = op.Shape(batch_index, start=0, end=1)
    shape = op.Concat(batch, op.Shape(data, start=1, end=2), op.Shape(ctx_indices, start=2, end=3), axis=0)
    row = op.Expand(op.Unsqueeze(batch_index, op.Constant(value_ints=[2])), shape)
    head = op.Expand(op.Unsqueeze(heads, op.Constant(value_ints=[0, 2])), shape)
    slot = op.Expand(ctx_indices, shape)
    last = op.Constant(value_ints=[3])
    indices = op.Concat(op.Unsqueeze(row, last), op.Unsqueeze(head, last), op.Unsqueeze(slot, last), axis=3)
    return op.GatherND(data, indices)


_FUNCTIONS = (CtxScatter, CtxScatterCB, CtxGather, CtxGatherCB)


@cache
def _functions() -> dict[ir.OperatorIdentifier, ir.Function]:
    made = (ir.serde.deserialize_function(function.to_function_proto()) for function in _FUNCTIONS)
    return {function.identifier(): function for function in made}


def add_functions(model: ir.Model) -> None:
    """Add the functions that its nodes call to ``model``."""
    for identifier, function in _functions().items():
        if any(node.op_identifier() == identifier for node in model.graph):
            model.functions[identifier] = function.clone()
            model.opset_imports[DOMAIN] = 1


def _call(name: str, inputs: Mapping[str, str]) -> Op:
    """A node of our domain as something that a translation can emit. Values are the inputs' types."""
    kinds = {"T": ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "I": ["tensor(int64)"]}
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(label, kind) for label, kind in inputs.items()],
        outputs=[OpSchema.FormalParameter("return_val", "T")],
        type_constraints=[(kind, allowed, "") for kind, allowed in kinds.items() if kind in inputs.values()],
    )
    return Op(_cloud, name, schema)


_SCATTER = _call("CtxScatter", {"data": "T", "position_ids": "I", "updates": "T"})
_SCATTER_CB = _call("CtxScatterCB", {"data": "T", "batch_index": "I", "position_ids": "I", "updates": "T"})
_GATHER = _call("CtxGather", {"data": "T", "ctx_indices": "I", "comp_ctx_len": "I"})
_GATHER_CB = _call("CtxGatherCB", {"data": "T", "batch_index": "I", "ctx_indices": "I", "comp_ctx_len": "I"})


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _ctx_scatter(data: Any, position_ids: Any, updates: Any) -> Any:
    return _SCATTER(data, position_ids, updates)


def _ctx_scatter_cb(data: Any, batch_index: Any, position_ids: Any, updates: Any) -> Any:
    return _SCATTER_CB(data, batch_index, position_ids, updates)


def _length(value: Any) -> Any:
    return op.Squeeze(op.Shape(value, start=2, end=3))


def _ctx_gather(data: Any, ctx_indices: Any) -> Any:
    return _GATHER(data, ctx_indices, _length(ctx_indices))


def _ctx_gather_cb(data: Any, batch_index: Any, ctx_indices: Any, is_whole: bool) -> Any:
    length = op.Constant(value_int=0) if is_whole else _length(ctx_indices)
    return _GATHER_CB(data, batch_index, ctx_indices, length)


def _settled_updates(updates: Any, first_slot: Any, keep: Any, last_token: Any, is_idle: Any) -> Any:
    by_token = op.Transpose(updates, perm=[0, 2, 1, 3])
    newest = op.Unsqueeze(op.GatherND(by_token, last_token, batch_dims=1), _ints(2))
    newest = op.Where(op.Unsqueeze(is_idle, _ints(2, 3)), first_slot, newest)
    return op.Where(op.Unsqueeze(keep, _ints(1, 3)), updates, newest)


def _attention(
    query: Any, key: Any, value: Any, mask: Any, sink: Any, scale: float, softcap: float | None = None
) -> Any:
    N, D, H = query.shape[1], query.shape[3], key.shape[1]
    group = N // H
    folded = query if group == 1 else op.Reshape(query, _ints(0, H, -1, D))
    scores = op.Mul(op.MatMul(folded, op.Transpose(key, perm=[0, 1, 3, 2])), _scalar(scale))
    if softcap is not None:
        scores = op.Mul(op.Tanh(op.Div(scores, _scalar(softcap))), _scalar(softcap))
    num_keys = op.Shape(key, start=2, end=3)
    if group > 1:
        scores = op.Reshape(scores, op.Concat(_ints(0, H, group, -1), num_keys, axis=0))
    if mask is not None:
        scores = op.Add(scores, _in_groups(mask, H, group, num_keys) if group > 1 else mask)
    weights = op.Softmax(scores, axis=-1) if sink is None else _softmax_with_sink(scores, sink, H, group)
    if group > 1:
        weights = op.Reshape(weights, op.Concat(_ints(0, H, -1), num_keys, axis=0))
    output = op.MatMul(weights, value)
    if group > 1:
        output = op.Reshape(output, _ints(0, N, -1, value.shape[3]))
    return op.Transpose(output, perm=[0, 2, 1, 3])


def _in_groups(mask: Any, num_heads: int, group: int, num_keys: Any) -> Any:
    """``[B, 1 or N, S, L]`` to ``[B, 1 or H, 1 or N / H, S, L]``."""
    if mask.shape[1] == 1:
        return op.Unsqueeze(mask, _ints(2))
    return op.Reshape(mask, op.Concat(_ints(0, num_heads, group, -1), num_keys, axis=0))


def _softmax_with_sink(scores: Any, sink: Any, num_heads: int, group: int) -> Any:
    """The sink as one more key, whose attention weight is dropped."""
    heads = (num_heads, group) if group > 1 else (num_heads,)
    column = op.Reshape(sink, _ints(1, *heads, 1, 1))
    rank = len(heads) + 3
    rows = op.Concat(op.Shape(scores, start=0, end=rank - 1), _ints(1), axis=0)
    weights = op.Softmax(op.Concat(scores, op.Expand(column, rows), axis=-1), axis=-1)
    return op.Slice(weights, _ints(0), op.Shape(scores, start=rank - 1, end=rank), _ints(rank - 1))


def _scalar(value: float) -> Any:
    return op.Constant(value_float=value)


def _squeeze(value: Any) -> Any:
    """Only axes known to be 1: a plain Squeeze would also remove dynamic axes of size 1."""
    axes = [axis for axis, size in enumerate(value.shape) if size == 1]
    return op.Squeeze(value, _ints(*axes)) if axes else op.Identity(value)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.squeeze.default: _squeeze,
    torch.ops.aten.sym_numel.default: lambda value: op.Size(value),
    torch.ops.qeff.ctx_scatter.default: _ctx_scatter,
    torch.ops.qeff.ctx_scatter_cb.default: _ctx_scatter_cb,
    torch.ops.qeff.ctx_gather.default: _ctx_gather,
    torch.ops.qeff.ctx_gather_cb.default: _ctx_gather_cb,
    torch.ops.qeff.settled_updates.default: _settled_updates,
    torch.ops.qeff.attention.default: _attention,
}
"""Translation of each operator for torch.onnx."""
