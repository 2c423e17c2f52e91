"""Quirks of encoders, see :mod:`QEfficient.transformers.quirks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from QEfficient.transformers.context_ops import attention
from QEfficient.transformers.masks import MASKED


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


def pooled_pairs(self: Any, tensor: Any, mode: str = "mean", stride: int = 2) -> Any:
    """Funnel: ``[B, S, ...]`` to half as many tokens, each of two; of an odd one at the end, that one alone."""
    if tensor is None or isinstance(tensor, tuple | list):
        return tensor and type(tensor)(pooled_pairs(self, part, mode, stride) for part in tensor)
    if self.config.separate_cls:
        tensor = torch.cat([tensor[:, :1], tensor[:, :-1] if self.config.truncate_seq else tensor], dim=1)
    num_pairs = (tensor.shape[1] + 1) // 2
    pairs = torch.cat([tensor, tensor[:, -1:]], dim=1)[:, : 2 * num_pairs].unflatten(1, (num_pairs, 2))
    return {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[mode](pairs, dim=2)
