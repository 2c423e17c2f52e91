"""Attention whose own code counts positions from the length of its cache to bias scores by distance: the forwards that
take their place, which have the positions of a step's rows.

Shape legend: B rows, S tokens, L keys, H heads, D head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.step import RetainedStep, current_step
from QEfficient.transformers.quirks.recurrent import with_columns_before


def relative_attention(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Any,
    conv_mask: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> Any:
    """Inkling's attention: scores biased by distance, and scaled up far from the beginning."""
    step = current_step()
    if step is None:
        return type(self).forward(self, hidden_states, attention_mask, conv_mask, past_key_values, **kwargs)
    query, key, value, relative = _projected(self, hidden_states, (hidden_states, hidden_states), past_key_values)
    query, key = self.q_norm(query), self.k_norm(key)
    if not self.is_sliding and self.config.log_scaling_n_floor is not None:
        scale = _far_scale(self.config, step)
        query, relative = query * scale, relative * scale
    mask = attention_mask + _bias(self, relative, step, past_key_values)
    key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
    output = attention(query.transpose(1, 2), key, value, mask, None, self.scaling)
    return self.o_proj(output.flatten(2)), None


def relative_sink_attention(
    self: Any,
    hidden_states: Tensor,
    key_hidden_states: Tensor | None = None,
    value_hidden_states: Tensor | None = None,
    attention_mask: Any = None,
    conv_mask: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> Any:
    """Inkling 2's attention: as before, each token with a sink and a gate of its own; full attention takes its keys and
    values from streams of their own."""
    step = current_step()
    streams = {} if key_hidden_states is None else {"key": key_hidden_states, "value": value_hidden_states}
    if step is None:
        own = {f"{name}_hidden_states": stream for name, stream in streams.items()}
        masks = {"attention_mask": attention_mask, "conv_mask": conv_mask}
        return type(self).forward(self, hidden_states, **own, **masks, past_key_values=past_key_values, **kwargs)
    inputs = tuple(streams.values()) or (hidden_states, hidden_states)
    query, key, value, relative = _projected(self, hidden_states, inputs, past_key_values)
    query, key = self.q_l2_clip(query), self.k_l2_clip(key)
    value, relative = self.v_norm(value), self.rel_l2_clip(relative)
    if streams:
        scale = _far_scale(self.config, step)
        query, relative = query * scale, relative * scale
    mask = attention_mask + _bias(self, relative, step, past_key_values)
    key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
    # A key and a value of zeros whose score is the sink's.
    mask = torch.cat([mask, self.sink_proj(hidden_states).transpose(1, 2)[..., None]], dim=-1)
    key, value = (functional.pad(held, (0, 0, 0, 1)) for held in (key, value))
    output = attention(query.transpose(1, 2), key, value, mask, None, self.scaling)
    return self.o_proj(output.flatten(2) * torch.sigmoid(self.gate_proj(hidden_states))), None


def dynamic_convolution(
    self: Any, hidden_states: Tensor, dynamic_input: Tensor, past_key_values: Any = None, **kwargs: Any
) -> Tensor:
    """Inkling 2's convolution over the tokens before, whose weights a head's channels share and each token adds to."""
    size, residual = self.conv_kernel_size, hidden_states.float()
    shape = (*hidden_states.shape[:2], self.num_heads, -1)
    columns = with_columns_before(past_key_values, self.layer_idx, residual.transpose(1, 2), size, self.conv_idx)
    added = self.weight_proj(dynamic_input).float().reshape(*shape[:3], 1, size)
    output = residual
    for back in range(size):
        earlier = columns[..., size - back : columns.shape[-1] - back].transpose(1, 2)
        weights = self.static_weight[back].float().reshape(self.num_heads, -1) + added[..., back]
        output = output + (earlier.reshape(shape) * weights).flatten(2)
    return (output / math.sqrt(2 * size + 1)).to(hidden_states.dtype)


def _projected(
    self: Any, hidden_states: Tensor, streams: tuple[Tensor, ...], cache: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and relative states ``[B, S, H, D]``."""
    shape = hidden_states.shape[:2]
    found = [self.q_proj(hidden_states).reshape(*shape, -1, self.head_dim)]
    layers = ((self.k_proj, self.k_sconv), (self.v_proj, self.v_sconv))
    for stream, (project, convolve) in zip(streams, layers, strict=True):
        # Convolutions with weights of their own for each token make them from the stream.
        dynamic = (stream,) if hasattr(convolve, "weight_proj") else ()
        found.append(convolve(project(stream), *dynamic, past_key_values=cache).reshape(*shape, -1, self.head_dim))
    query, key, value = found
    return query, key, value, self.r_proj(hidden_states).reshape(*shape, self.num_heads, -1)


def _far_scale(config: Any, step: RetainedStep) -> Tensor:
    """``[B, S, 1, 1]``."""
    count = (step.position_ids + 1).float() / config.log_scaling_n_floor
    return (1.0 + config.log_scaling_alpha * torch.log(count.clamp(min=1.0)))[..., None, None]


def _bias(self: Any, relative: Tensor, step: RetainedStep, cache: Any) -> Tensor:
    """``[B, H, S, L]``: for each distance that the layer knows, what the token says of it."""
    num_distances = self.rel_logits_proj.rel_extent
    by_distance = (relative @ self.rel_logits_proj.proj).transpose(1, 2)
    _, key_positions = cache.get_mask_sizes(step.position_ids.shape[1], self.layer_idx)
    distance = (step.position_ids[:, :, None] - key_positions[:, None])[:, None]
    places = distance.clamp(0, num_distances - 1).expand(-1, by_distance.shape[1], -1, -1)
    return torch.where((distance >= 0) & (distance < num_distances), by_distance.gather(3, places), 0.0)
