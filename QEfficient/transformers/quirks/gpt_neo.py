"""GPT-Neo: a mask of the local layers' window by absolute positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def local_attention(
    self: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """Attention over ``[B, H, S, D]``; local layers see ``window_size`` tokens back."""
    if self.attention_type == "local":
        step, keys = current_step(), torch.arange(key.shape[2])
        places = keys[None] if step is None else step.position_ids
        back = places[:, None, :, None] - keys
        too_far = torch.where(back < self.config.window_size, 0.0, MASKED)
        attention_mask = too_far if attention_mask is None else torch.minimum(attention_mask, too_far)
    return attention(query, key, value, attention_mask, None, 1.0).transpose(1, 2), None


QUIRK = Quirk(methods={"GPTNeoSelfAttention._attn": local_attention})
