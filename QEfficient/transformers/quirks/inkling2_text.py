"""Inkling 2: attention biased by distance with a sink, and dynamic convolutions over a step of any length.

Shape legend: B rows, S tokens, L keys, H heads, D head size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.recurrences import (
    columns_with_past,
)
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk
from QEfficient.transformers.quirks.inkling_text import distance_bias, far_scale, projected


def relative_sink_attention(
    self: Any,
    hidden_states: Tensor,
    key_hidden_states: Tensor | None = None,
    value_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    conv_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    **kwargs: object,
) -> Any:
    """Attention with a sink and an output gate per token, ``[B, S, D]`` to ``[B, S, D]``.

    Full attention reads keys and values from separate streams, ``[B, S, D]`` each.
    """
    step = current_step()
    streams = {} if key_hidden_states is None else {"key": key_hidden_states, "value": value_hidden_states}
    if step is None:
        inputs = {f"{name}_hidden_states": stream for name, stream in streams.items()}
        masks = {"attention_mask": attention_mask, "conv_mask": conv_mask}
        return type(self).forward(self, hidden_states, **inputs, **masks, past_key_values=past_key_values, **kwargs)
    assert attention_mask is not None
    assert past_key_values is not None
    sources = tuple(streams.values()) or (hidden_states, hidden_states)
    query, key, value, relative = projected(self, hidden_states, sources, past_key_values)
    query, key = self.q_l2_clip(query), self.k_l2_clip(key)
    value, relative = self.v_norm(value), self.rel_l2_clip(relative)
    if streams:
        scale = far_scale(self.config, step)
        query, relative = query * scale, relative * scale
    mask = attention_mask + distance_bias(self, relative, step, past_key_values)
    key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
    # The sink is a key and a value of zeros with the sink's score.
    mask = torch.cat([mask, self.sink_proj(hidden_states).transpose(1, 2)[..., None]], dim=-1)
    key, value = (functional.pad(states, (0, 0, 0, 1)) for states in (key, value))
    output = attention(query.transpose(1, 2), key, value, mask, None, self.scaling)
    return self.o_proj(output.flatten(2) * torch.sigmoid(self.gate_proj(hidden_states))), None


def dynamic_convolution(
    self: Any, hidden_states: Tensor, dynamic_input: Tensor, past_key_values: Cache | None = None, **kwargs: object
) -> Tensor:
    """Convolution ``[B, S, D]`` over the tokens before.

    The channels of a head share its weights, which are static ones plus those of each token.
    """
    size, residual = self.conv_kernel_size, hidden_states.float()
    shape = (*hidden_states.shape[:2], self.num_heads, -1)
    columns = columns_with_past(past_key_values, self.layer_idx, residual.transpose(1, 2), size, self.conv_idx)
    added = self.weight_proj(dynamic_input).float().reshape(*shape[:3], 1, size)
    output = residual
    for back in range(size):
        earlier = columns[..., size - back : columns.shape[-1] - back].transpose(1, 2)
        weights = self.static_weight[back].float().reshape(self.num_heads, -1) + added[..., back]
        output = output + (earlier.reshape(shape) * weights).flatten(2)
    return (output / math.sqrt(2 * size + 1)).to(hidden_states.dtype)


QUIRK = Quirk(
    methods={
        "Inkling2SlidingAttention.forward": relative_sink_attention,
        "Inkling2FullAttention.forward": relative_sink_attention,
        "Inkling2DynamicShortConvolution.forward": dynamic_convolution,
    }
)
