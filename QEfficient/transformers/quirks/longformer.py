"""Longformer: dense attention under a window mask, for any number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutput

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.quirks import Quirk

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def unpadded(self: Any, **inputs: Tensor | int | None) -> tuple[Any, ...]:
    """Number of padded tokens, 0, and the inputs unchanged: attention here needs no whole windows."""
    return 0, *(inputs[name] for name in _INPUTS)


def all_layers(self: Any, hidden_states: Tensor, attention_mask: Tensor, **kwargs: object) -> LongformerBaseModelOutput:
    """The layers in turn; each reads the global tokens from the mask."""
    for layer in self.layer:
        hidden_states = layer(hidden_states, attention_mask=attention_mask)[0]
    return LongformerBaseModelOutput(hidden_states)


def windowed_attention(self: Any, hidden_states: Tensor, attention_mask: Tensor, **kwargs: object) -> tuple[Tensor]:
    """Attention of each token to its window and to global tokens; these attend to all, with separate projections.

    Args:
        hidden_states: ``[B, S, D]``.
        attention_mask: ``[B, S]``: below 0 for padding, above 0 for a global token, which is the first or none.
    """

    def heads(project: Any, states: Tensor = hidden_states) -> Tensor:
        return project(states).reshape(*states.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    scale, places = self.head_dim**-0.5, torch.arange(hidden_states.shape[1])
    is_near = (places[:, None] - places).abs() <= self.one_sided_attn_window_size
    is_token, is_global = (attention_mask >= 0)[:, None, None], (attention_mask > 0)[:, None, None]
    near = torch.where(is_token & (is_near | is_global), 0.0, MASKED)
    output = attention(heads(self.query), heads(self.key), heads(self.value), near, None, scale).flatten(2)
    keys, values, far = heads(self.key_global), heads(self.value_global), torch.where(is_token, 0.0, MASKED)
    first = attention(heads(self.query_global, hidden_states[:, :1]), keys, values, far, None, scale).flatten(2)
    first = torch.where(attention_mask[:, :1, None] > 0, first, output[:, :1])
    return (torch.cat([first, output[:, 1:]], dim=1),)


QUIRK = Quirk(
    methods={
        "LongformerModel._pad_to_window_size": unpadded,
        "LongformerEncoder.forward": all_layers,
        "LongformerSelfAttention.forward": windowed_attention,
    }
)
