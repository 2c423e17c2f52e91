"""Zaya: projections with the columns before the step taken from transformers' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.recurrences import (
    columns_with_past,
    recurrent_state,
)
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def zaya_projection(
    self: Any, hidden_states: Tensor, past_key_values: Cache, conv_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value ``[B, S, H, D]``; queries and keys convolved, half of each value the token before's."""
    shape, groups = hidden_states.shape[:2], self.num_key_value_groups
    heads = (*shape, -1, self.head_dim)
    queries, keys = self.q_proj(hidden_states), self.k_proj(hidden_states)
    query_residual = (queries.reshape(heads) + keys.reshape(heads).repeat_interleave(groups, dim=2)) * 0.5
    key_residual = query_residual.reshape(*shape, -1, groups, self.head_dim).mean(dim=-2)
    both = torch.cat([queries, keys], dim=-1).transpose(1, 2)
    columns = columns_with_past(past_key_values, self.layer_idx, both, self.conv_kernel_size)
    mixed = self.conv_qk_grouped(self.conv_qk_depthwise(columns)).transpose(1, 2)
    query, key = mixed.split([queries.shape[-1], keys.shape[-1]], dim=-1)
    value = torch.cat([self.v_proj_current(hidden_states), _delayed_values(self, hidden_states, past_key_values)], -1)
    return query.reshape(heads) + query_residual, key.reshape(heads) + key_residual, value.reshape(heads)


def _delayed_values(self: Any, hidden_states: Tensor, cache: Cache) -> Tensor:
    """Values of the token before each, ``[B, S, D]``; those of zeros before the first."""
    # The state has no bias in it, so that zeros in it stand for a token of zeros.
    values = functional.linear(hidden_states, self.v_proj_delayed.weight)
    before = recurrent_state(cache, self.layer_idx, values[:, 0])
    columns = torch.cat([before[:, None], values], dim=1)
    step = current_step()
    newest = columns[:, -1] if step is None else step.newest(columns.transpose(1, 2), 1)[..., 0]
    cache.update_recurrent_state(newest, self.layer_idx)
    bias = self.v_proj_delayed.bias
    return columns[:, :-1] if bias is None else columns[:, :-1] + bias


QUIRK = Quirk(methods={"ZayaCCAProjection.forward": zaya_projection})
