"""Funnel: relative position scores as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def position_scores(
    self: Any,
    position_embeds: Sequence[Tensor] | Sequence[Sequence[Tensor]],
    q_head: Tensor,
    context_len: int,
    cls_mask: Tensor | None = None,
) -> Tensor:
    """Scores of distances ``[B, H, S, L]`` for queries ``[B, S, H, K]``, as matrix products."""
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


QUIRK = Quirk(methods={"FunnelRelMultiheadAttention.relative_positional_attention": position_scores})
