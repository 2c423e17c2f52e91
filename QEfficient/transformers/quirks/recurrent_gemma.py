"""RecurrentGemma: the RG-LRU as one scan, with its state in transformers' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.recurrences import (
    columns_with_past,
    num_doublings,
    real_tokens,
    recurrent_state,
    scan_linear,
)
from QEfficient.transformers.quirks import Quirk


def numbered_blocks(self: Any, *args: object, **kwargs: object) -> Any:
    """RecurrentGemma's forward, after giving each recurrent block its layer index."""
    for layer_idx, layer in enumerate(self.layers):
        layer.temporal_block.layer_idx = layer_idx
    return type(self).forward(self, *args, **kwargs)


def rg_lru_block(
    self: Any,
    input_states: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """``[B, S, D]`` to ``[B, S, D]``: a short convolution, then the real-gated linear recurrent unit."""
    inputs = self.linear_x(input_states).transpose(1, 2)
    columns = columns_with_past(past_key_values, self.layer_idx, inputs, self.conv1d_width - 1)
    conv = self.conv_1d
    mixed = functional.conv1d(columns, conv.weight, conv.bias, groups=conv.groups).transpose(1, 2)
    decay, update = _rg_lru_gates(self.rg_lru, mixed, position_ids)
    is_token = real_tokens(mixed)[..., None]
    decay, update = torch.where(is_token, decay, 1.0), torch.where(is_token, update, 0.0)
    decay, update = (part[:, 0] for part in scan_linear(decay[:, None], update[:, None], num_doublings(mixed.shape[1])))
    states = decay * recurrent_state(past_key_values, self.layer_idx, update[:, 0])[:, None] + update
    past_key_values.update_recurrent_state(states[:, -1], self.layer_idx)
    return self.linear_out(states * self.act_fn(self.linear_y(input_states))), None


def _rg_lru_gates(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Decay of the state and input to it at each token of ``x [B, S, D]``, both ``[B, S, D]`` in float32."""

    def gate(weight: Tensor, bias: Tensor) -> Tensor:
        heads = x.reshape(*x.shape[:2], self.num_attention_heads, self.block_width).transpose(1, 2)
        return torch.sigmoid((heads @ weight + bias[:, None]).transpose(1, 2).reshape(x.shape))

    log_decay = -8.0 * gate(self.recurrent_gate_weight, self.recurrent_gate_bias)
    log_decay = log_decay * functional.softplus(self.recurrent_param)
    normalizer = torch.where(position_ids[..., None] == 0, 1.0, torch.sqrt(1 - torch.exp(2 * log_decay)))
    return log_decay.exp().float(), (x * gate(self.input_gate_weight, self.input_gate_bias) * normalizer).float()


QUIRK = Quirk(
    methods={
        "RecurrentGemmaRecurrentBlock.forward": rg_lru_block,
        "RecurrentGemmaModel.forward": numbered_blocks,
    }
)
