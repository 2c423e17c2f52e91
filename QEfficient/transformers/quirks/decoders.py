"""Single methods of decoders; see :mod:`QEfficient.transformers.quirks`."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.step import current_step


def local_attention(
    self: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """GPT-Neo's, over ``[B, H, S, D]``, whose local layers see ``window_size`` tokens back."""
    if self.attention_type == "local":
        step, keys = current_step(), torch.arange(key.shape[2])
        places = keys[None] if step is None else step.position_ids
        back = places[:, None, :, None] - keys
        too_far = torch.where(back < self.config.window_size, 0.0, MASKED)
        attention_mask = too_far if attention_mask is None else torch.minimum(attention_mask, too_far)
    return attention(query, key, value, attention_mask, None, 1.0).transpose(1, 2), None


def rotated_by_row(self: Any, sinusoidal_pos: Tensor, *layers: Tensor) -> Any:
    if sinusoidal_pos.ndim == 5:  # [1, 1, B, S, D]
        sinusoidal_pos = sinusoidal_pos[0].transpose(0, 1)
    return type(self).apply_rotary_position_embeddings(sinusoidal_pos, *layers)


def gaussian_topk(self: Any, inputs: Tensor) -> Tensor:
    multiplier = NormalDist().inv_cdf(float(self.activation_sparsity))
    mean, deviation = inputs.mean(-1, keepdim=True), inputs.std(-1, keepdim=True, unbiased=False)
    return torch.relu(inputs - (mean + deviation * multiplier))
