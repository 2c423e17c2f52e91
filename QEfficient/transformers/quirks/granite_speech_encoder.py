"""Granite Speech: blocks of local attention cut without asking whether there is anything to pad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from QEfficient.transformers.quirks import Quirk


def attention_in_blocks(self: Any, hidden_states: Tensor, attention_dists: Tensor) -> Tensor:
    """The module's forward over whole blocks, of which the first ``S`` places are returned."""
    batch_size, length, _ = hidden_states.shape
    num_blocks = (length + self.context_size - 1) // self.context_size
    states = self.pre_norm(hidden_states)
    states = nn.functional.pad(states, (0, 0, 0, num_blocks * self.context_size - length))
    sizes = (batch_size * num_blocks, self.context_size, self.num_heads, self.dim_head)
    tensors = (self.to_q(states), *self.to_kv(states).chunk(2, dim=-1))
    queries, keys, values = (tensor.reshape(sizes).transpose(1, 2) for tensor in tensors)

    scores = torch.einsum("b h c d, c r d -> b h c r", queries, self.rel_pos_emb(attention_dists)) * self.scale
    is_place = torch.arange(num_blocks * self.context_size).reshape(num_blocks, self.context_size) < length
    is_seen = (is_place[:, :, None] & is_place[:, None]).repeat(batch_size, 1, 1)[:, None]
    scores = scores.masked_fill(~is_seen, -torch.finfo(scores.dtype).max)
    output = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=scores, scale=self.scale)
    output = output.transpose(1, 2).reshape(batch_size, num_blocks * self.context_size, -1)
    result: Tensor = self.to_out(output[:, :length])
    return result


def blocks_of_queries(self: Any, hidden_states: Tensor) -> Tensor:
    """The projector's forward, with the number of blocks in whole numbers, and queries for each of them."""
    batch_size, length, width = hidden_states.shape
    num_blocks = (length + self.window_size - 1) // self.window_size
    states = nn.functional.pad(hidden_states, (0, 0, 0, num_blocks * self.window_size - length))
    states = states.view(batch_size * num_blocks, self.window_size, width)
    queries = self.query.expand(batch_size * num_blocks, -1, -1)
    output = self.qformer(query_embeds=queries, encoder_hidden_states=states, return_dict=True).last_hidden_state
    num_rows = num_blocks * (self.window_size // self.downsample_rate)
    result: Tensor = self.linear(output.reshape(batch_size, num_rows, -1))
    return result


QUIRK = Quirk(
    methods={
        "GraniteSpeechConformerAttention.forward": attention_in_blocks,
        "GraniteSpeechEncoderProjector.forward": blocks_of_queries,
    }
)
