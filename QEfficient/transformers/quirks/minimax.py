"""MiniMax: lightning attention as a Mamba-2 scan, with its state in transformers' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.recurrences import (
    mamba2_chunk_scan,
)
from QEfficient.transformers.quirks import Quirk


def lightning_attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    past_key_values: Cache,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """``[B, S, D]`` to ``[B, S, D]``: Mamba-2 with a constant decay per head."""
    shape = (*hidden_states.shape[:2], self.num_attention_heads, 3 * self.head_dim)
    query, key, value = self.act_fn(self.qkv_proj(hidden_states)).reshape(shape).split(self.head_dim, dim=3)
    output, state = mamba2_chunk_scan(
        value,
        torch.ones_like(value[..., 0]),
        -self.slope_rate.reshape(-1),
        key,
        query,
        chunk_size=self.block_size,
        initial_states=past_key_values.get_recurrent_state(self.layer_idx),
        return_final_states=True,
    )
    past_key_values.update_recurrent_state(state, self.layer_idx)
    output = torch.sigmoid(self.output_gate(hidden_states)) * self.norm(output.flatten(2))
    return self.out_proj(output), None


def without_use_cache(self: Any, *args: object, **kwargs: object) -> Any:
    """MiniMax's forward, which checks the class of its cache only if ``use_cache`` is set."""
    return type(self).forward(self, *args, **kwargs | {"use_cache": False})


QUIRK = Quirk(
    methods={
        "MiniMaxLightningAttention.forward": lightning_attention,
        "MiniMaxModel.forward": without_use_cache,
    }
)
