"""Quirks of encoders, see :mod:`QEfficient.transformers.quirks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.masks import MASKED


@dataclass
class _Encoded(ModelOutput):
    """What Longformer asks of its encoder."""

    last_hidden_state: Tensor | None = None
    hidden_states: Any = None
    attentions: Any = None
    global_attentions: Any = None


_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def unpadded(self: Any, **given: Any) -> tuple[Any, ...]:
    """How much longer the inputs got, and the inputs, as they are: attention here needs no whole windows."""
    return 0, *(given[name] for name in _INPUTS)


def all_layers(self: Any, hidden_states: Tensor, attention_mask: Tensor, **kwargs: Any) -> _Encoded:
    """One layer after the other, each of which reads in the mask which tokens see all others."""
    for layer in self.layer:
        hidden_states = layer(hidden_states, attention_mask=attention_mask)[0]
    return _Encoded(hidden_states)


def windowed_attention(self: Any, hidden_states: Tensor, attention_mask: Tensor, **kwargs: Any) -> tuple[Tensor]:
    """Longformer: a token sees those near it and those that all see; the latter ask in words of their own.

    Args:
        hidden_states: ``[B, S, D]``.
        attention_mask: ``[B, S]``: below 0 for padding, above 0 for a token that sees all, which is the first or none.
    """

    def heads(project: Any, states: Tensor = hidden_states) -> Tensor:
        return project(states).reshape(*states.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    scale, places = self.head_dim**-0.5, torch.arange(hidden_states.shape[1])
    is_near = (places[:, None] - places).abs() <= self.one_sided_attn_window_size
    is_token, sees_all = (attention_mask >= 0)[:, None, None], (attention_mask > 0)[:, None, None]
    near = torch.where(is_token & (is_near | sees_all), 0.0, MASKED)
    output = attention(heads(self.query), heads(self.key), heads(self.value), near, None, scale).flatten(2)
    keys, values, far = heads(self.key_global), heads(self.value_global), torch.where(is_token, 0.0, MASKED)
    first = attention(heads(self.query_global, hidden_states[:, :1]), keys, values, far, None, scale).flatten(2)
    first = torch.where(attention_mask[:, :1, None] > 0, first, output[:, :1])
    return (torch.cat([first, output[:, 1:]], dim=1),)


def position_scores(
    self: Any, position_embeds: Any, q_head: Tensor, context_len: Any, cls_mask: Tensor | None = None
) -> Tensor:
    """Funnel: the scores of distances ``[B, H, S, L]`` for queries ``[B, S, H, K]``, as products of matrices."""
    if self.config.attention_type == "factorized":
        return type(self).relative_positional_attention(self, position_embeds, q_head, context_len, cls_mask)
    shift = 2 if q_head.shape[1] != context_len else 1
    distances = position_embeds[self.block_index][shift - 1]
    keys = (distances @ self.r_kernel.flatten(1)).unflatten(1, self.r_kernel.shape[1:])
    scores = (q_head + self.r_r_bias * self.scale).transpose(1, 2) @ keys.permute(1, 2, 0)
    num_rows, num_heads, num_tokens, num_distances = scores.shape
    # A row shorter by ``shift`` moves each query on by one.
    scores = scores.reshape(num_rows, num_heads, num_distances, num_tokens)[:, :, shift:]
    scores = scores.reshape(num_rows, num_heads, num_tokens, num_distances - shift)[..., :context_len]
    return scores if cls_mask is None else scores * cls_mask
