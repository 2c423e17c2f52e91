"""GLM-5 Next: its indexer marks the keys of the best pools, of which there are equally many at every step.

Shape legend: B rows, S tokens, L keys, N pools of P keys, H heads of the indexer, D size of its keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.sparse import best
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def pool_indexer(
    self: Any, hidden_states: Tensor, q_resid: Tensor, attention_mask: Tensor, past_key_values: Cache
) -> Tensor:
    """Select the best whole pools of keys before each token, and the keys after the last whole pool.

    Returns:
        ``[B, S, L]``: whether a token sees a key.
    """
    step = current_step()
    # Without a step the model is run to measure its state.
    step_places = torch.arange(hidden_states.shape[1])[None] if step is None else step.position_ids
    keys = _packed(self, hidden_states, past_key_values)
    size, num_pools = self.index_kpool, keys.shape[1] // self.index_kpool
    num_whole = torch.div(step_places + 1, size, rounding_mode="floor")[..., None]
    is_whole = torch.arange(num_pools) < num_whole
    scores = torch.where(is_whole, _scores(self, hidden_states, q_resid, _pooled(self, keys, num_pools)), MASKED)
    picked = best(scores, self.index_topk // size) * is_whole
    picked = functional.pad(picked.repeat_interleave(size, dim=2), (0, keys.shape[1] - num_pools * size))
    places = torch.arange(keys.shape[1])
    in_tail = (places >= num_whole * size) & (places <= step_places[..., None])
    return (picked > 0) | in_tail if self.index_kpool_always_select_tail else picked > 0


def _packed(self: Any, hidden_states: Tensor, past_key_values: Cache) -> Tensor:
    """What the state has of all keys: the key, the scores of its weight in a pool, and that it is there."""
    key = self.k_norm(self.wk(hidden_states))
    gate = functional.linear(hidden_states, self.index_kpool_compress_gate)
    packed = torch.cat([key, gate, torch.ones_like(key[..., :1])], dim=-1)
    return past_key_values.update_indexer(packed, self.layer_idx)


def _pooled(self: Any, packed: Tensor, num_pools: int) -> Tensor:
    """``[B, N, D]``, the weighted mean of the keys of each pool."""
    sizes = (packed.shape[0], num_pools, self.index_kpool, packed.shape[2])
    whole = packed[:, : num_pools * self.index_kpool].reshape(sizes)
    keys, gates = whole[..., : self.head_dim], whole[..., self.head_dim : 2 * self.head_dim]
    return ((gates + self.index_kpool_compress_ape).softmax(dim=2) * keys).sum(dim=2)


def _scores(self: Any, hidden_states: Tensor, q_resid: Tensor, pools: Tensor) -> Tensor:
    """``[B, S, N]``."""
    query = self.wq_b(q_resid).reshape(*hidden_states.shape[:2], self.n_heads, self.head_dim).transpose(1, 2)
    by_head = torch.relu(query @ pools[:, None].transpose(2, 3) * self.softmax_scale)
    weights = self.weights_proj(hidden_states) * self.n_heads**-0.5
    return (by_head * weights.transpose(1, 2)[..., None]).sum(1)


def mask_of(self: Any, topk_indices: Tensor, query_states: Tensor, kv_length: int) -> Tensor:
    """The mask ``[B, 1, S, L]`` of what :func:`pool_indexer` selects."""
    return torch.where(topk_indices, 0.0, MASKED)[:, None]


def expand_kv(self: Any, kv_nope: Tensor, k_rot: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values ``[B, H, L, size]`` from latents ``[B, 1, L, size]``."""
    shape = (kv_nope.shape[0], kv_nope.shape[2], -1, self.qk_nope_head_dim + self.v_head_dim)
    expanded = self.kv_b_proj(kv_nope).reshape(shape).transpose(1, 2)
    keys, values = expanded.split([self.qk_nope_head_dim, self.v_head_dim], dim=-1)
    return torch.cat([keys, k_rot.expand(-1, keys.shape[1], -1, -1)], dim=-1), values


QUIRK = Quirk(
    methods={
        "Glm5NextTextAttention.expand_kv": expand_kv,
        "Glm5NextTextIndexer.forward": pool_indexer,
        "Glm5NextTextAttention.build_attention_mask_from_topk": mask_of,
    }
)
