"""Inkling: attention biased by distance, from the absolute positions of the step's rows.

Shape legend: B rows, S tokens, L keys, H heads, D head size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.step import RetainedStep, current_step
from QEfficient.transformers.quirks import Quirk


def relative_attention(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    conv_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    **kwargs: object,
) -> Any:
    """Attention ``[B, S, D]`` with scores biased by distance, and scaled up far from the beginning."""
    step = current_step()
    if step is None:
        return type(self).forward(self, hidden_states, attention_mask, conv_mask, past_key_values, **kwargs)
    assert attention_mask is not None
    assert past_key_values is not None
    query, key, value, relative = projected(self, hidden_states, (hidden_states, hidden_states), past_key_values)
    query, key = self.q_norm(query), self.k_norm(key)
    if not self.is_sliding and self.config.log_scaling_n_floor is not None:
        scale = far_scale(self.config, step)
        query, relative = query * scale, relative * scale
    mask = attention_mask + distance_bias(self, relative, step, past_key_values)
    key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
    output = attention(query.transpose(1, 2), key, value, mask, None, self.scaling)
    return self.o_proj(output.flatten(2)), None


def projected(
    self: Any, hidden_states: Tensor, streams: tuple[Tensor, ...], cache: Cache
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and relative states ``[B, S, H, D]``."""
    shape = hidden_states.shape[:2]
    projections = [self.q_proj(hidden_states).reshape(*shape, -1, self.head_dim)]
    layers = ((self.k_proj, self.k_sconv), (self.v_proj, self.v_sconv))
    for stream, (project, convolve) in zip(streams, layers, strict=True):
        # Dynamic convolutions compute their weights from the stream.
        dynamic = (stream,) if hasattr(convolve, "weight_proj") else ()
        states = convolve(project(stream), *dynamic, past_key_values=cache)
        projections.append(states.reshape(*shape, -1, self.head_dim))
    query, key, value = projections
    return query, key, value, self.r_proj(hidden_states).reshape(*shape, self.num_heads, -1)


def far_scale(config: PreTrainedConfig, step: RetainedStep) -> Tensor:
    """Scale of queries by position, ``[B, S, 1, 1]``."""
    count = (step.position_ids + 1).float() / config.log_scaling_n_floor
    return (1.0 + config.log_scaling_alpha * torch.log(count.clamp(min=1.0)))[..., None, None]


def distance_bias(self: Any, relative: Tensor, step: RetainedStep, cache: Cache) -> Tensor:
    """Bias of scores ``[B, H, S, L]``; 0 beyond the distances that the layer has an embedding for."""
    num_distances = self.rel_logits_proj.rel_extent
    by_distance = (relative @ self.rel_logits_proj.proj).transpose(1, 2)
    _, key_positions = cache.get_mask_sizes(step.position_ids.shape[1], self.layer_idx)
    distance = (step.position_ids[:, :, None] - key_positions[:, None])[:, None]
    places = distance.clamp(0, num_distances - 1).expand(-1, by_distance.shape[1], -1, -1)
    return torch.where((distance >= 0) & (distance < num_distances), by_distance.gather(3, places), 0.0)


QUIRK = Quirk(methods={"InklingAttention.forward": relative_attention})
