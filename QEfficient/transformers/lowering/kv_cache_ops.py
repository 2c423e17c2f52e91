"""Operators of the ``retained`` lowering that stay one node in a graph: reading and writing state, and attention.

This file defines them in PyTorch; their ONNX form is in :mod:`QEfficient.exporter.context_functions`.

Shape legend: B rows of this step, S tokens of this step, R rows of the state, C slots of a row, H key/value heads,
N query heads, L keys, D key size, E value size.
"""

from __future__ import annotations

import torch
from torch import Tensor

_op = torch.library.custom_op


@_op("qeff::ctx_scatter", mutates_args=())
def ctx_scatter(data: Tensor, position_ids: Tensor, updates: Tensor) -> Tensor:
    """``data [B, H, C, D]`` with ``updates [B, H, S, D]`` in the slots ``position_ids [B, S]``."""
    return ctx_scatter_cb(data, torch.arange(updates.shape[0])[:, None], position_ids, updates)


@_op("qeff::ctx_scatter_cb", mutates_args=())
def ctx_scatter_cb(data: Tensor, batch_index: Tensor, position_ids: Tensor, updates: Tensor) -> Tensor:
    """The same in the rows ``batch_index [B, 1]`` of ``data [R, H, C, D]``."""
    heads = torch.arange(updates.shape[1])
    return data.index_put((batch_index[:, :, None], heads[None, :, None], position_ids[:, None, :]), updates)


@_op("qeff::ctx_gather", mutates_args=())
def ctx_gather(data: Tensor, ctx_indices: Tensor) -> Tensor:
    """The slots ``ctx_indices [1, 1, L]`` of ``data [B, H, C, D]``: ``[B, H, L, D]``."""
    return data.index_select(2, ctx_indices[0, 0])


@_op("qeff::ctx_gather_cb", mutates_args=())
def ctx_gather_cb(data: Tensor, batch_index: Tensor, ctx_indices: Tensor, is_whole: bool) -> Tensor:
    """The same of the rows ``batch_index [B, 1]`` of ``data [R, H, C, D]``; ``is_whole``: the indices are
    all slots in order."""
    return data.index_select(0, batch_index[:, 0]).index_select(2, ctx_indices[0, 0])


@_op("qeff::settled_updates", mutates_args=())
def settled_updates(updates: Tensor, first_slot: Tensor, keep: Tensor, last_token: Tensor, is_idle: Tensor) -> Tensor:
    """Values to write such that all writes to the same slot are equal: ``[B, H, S, D]``.

    Args:
        updates: ``[B, H, S, D]``, values of the step's tokens.
        first_slot: ``[B, H, 1, D]``, current content of slot 0 of each row.
        keep: ``[B, S]``, whether to store a token; the others repeat the row's newest token.
        last_token: ``[B, 1]``, index of the row's newest token among the S.
        is_idle: ``[B, 1]``, whether the row has no tokens and writes back its content.
    """
    newest = updates.gather(2, last_token[:, None, :, None].expand(-1, updates.shape[1], 1, updates.shape[3]))
    newest = torch.where(is_idle[:, None, :, None], first_slot, newest)
    return torch.where(keep[:, None, :, None], updates, newest)


@_op("qeff::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    sink: Tensor | None,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention, ``[B, N, S, D]`` over ``[B, H, L, D]`` and ``[B, H, L, E]`` to ``[B, S, N, E]``.

    Args:
        query: N is a multiple of H; queries of the same key head are adjacent.
        mask: ``[B, 1 or N, S, L]``, added to the scores.
        sink: ``[N]``, one logit per head that takes part in the softmax and is then dropped.
        scale: multiplies the scores.
        softcap: bounds the scores smoothly to this size before the mask.
    """
    (B, N, S, D), (H, L) = query.shape, key.shape[1:3]
    scores = query.reshape(B, H, N // H * S, D) @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.reshape(B, H, N // H, S, L)
    if mask is not None:
        heads = (1, 1) if mask.shape[1] == 1 else (H, N // H)
        scores = scores + mask.reshape(mask.shape[0], *heads, *mask.shape[2:])
    if sink is not None:
        column = sink.reshape(1, H, N // H, 1, 1).expand(B, -1, -1, S, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :L].reshape(B, H, N // H * S, L)
    return (weights @ value).reshape(B, N, S, -1).transpose(1, 2).contiguous()


def _like_first(first: Tensor, *_: object) -> Tensor:
    """The result's shape, as the three functions below give that of theirs."""
    return torch.empty_like(first)


for _writer in (ctx_scatter, ctx_scatter_cb, settled_updates):
    _writer.register_fake(_like_first)


@ctx_gather.register_fake
def _(data: Tensor, ctx_indices: Tensor) -> Tensor:
    return data.new_empty(data.shape[0], data.shape[1], ctx_indices.shape[2], data.shape[3])


@ctx_gather_cb.register_fake
def _(data: Tensor, batch_index: Tensor, ctx_indices: Tensor, is_whole: bool) -> Tensor:
    return data.new_empty(batch_index.shape[0], data.shape[1], ctx_indices.shape[2], data.shape[3])


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
