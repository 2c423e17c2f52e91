"""Recurrent layers whose own code keeps its state outside transformers' cache, or loops over tokens: the forwards that
take their place, which keep it in the cache and take a step as one chunk.

Shape legend: B rows, S tokens, D channels, H heads, K key size, V value size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils import ModelOutput

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.recurrences import (
    decays_between,
    mamba2_chunk_scan,
    num_doublings,
    real_tokens,
    scan_linear,
)
from QEfficient.transformers.lowering.step import current_step


@dataclass
class Hidden(ModelOutput):
    """What the heads of RWKV and xLSTM ask of their models."""

    last_hidden_state: Tensor | None = None
    state: Any = None
    cache_params: Any = None
    hidden_states: Any = None
    attentions: Any = None


def with_columns_before(cache: Any, layer_idx: int, values: Tensor, num_before: int, state_idx: int = 0) -> Tensor:
    """``values [B, D, S]`` behind the last ``num_before`` columns of the tokens before them: ``[B, D, K + S]``."""
    held = cache.get_conv_state(layer_idx, state_idx)
    columns = cache.update_conv_state(values, layer_idx, state_idx, conv_kernel_size=num_before)
    return functional.pad(values, (num_before, 0)) if held is None else columns


def _token_before(cache: Any, layer_idx: int, hidden: Tensor, state_idx: int) -> Tensor:
    """For each token of ``hidden [B, S, D]`` the one before it, zeros before the first."""
    columns = with_columns_before(cache, layer_idx, hidden.transpose(1, 2), 1, state_idx)
    return columns[..., :-1].transpose(1, 2)


def _held(cache: Any, layer_idx: int, like: Tensor, state_idx: int = 0) -> Tensor:
    """The layer's recurrent state; zeros ``like`` the given where there is none."""
    state = cache.get_recurrent_state(layer_idx, state_idx)
    return torch.zeros_like(like) if state is None else state


def lightning_attention(
    self: Any, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any, past_key_values: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """MiniMax: Mamba-2 whose decay is one number a head."""
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


def without_use_cache(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A model's own forward, which takes any cache as long as it is not told that it has one."""
    return type(self).forward(self, *args, **kwargs | {"use_cache": False})


def numbered_blocks(self: Any, *args: Any, **kwargs: Any) -> Any:
    """RecurrentGemma's own forward, of layers whose recurrent blocks know their place."""
    for layer_idx, layer in enumerate(self.layers):
        layer.temporal_block.layer_idx = layer_idx
    return type(self).forward(self, *args, **kwargs)


def rg_lru_block(
    self: Any, input_states: Tensor, position_ids: Tensor, attention_mask: Any, past_key_values: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """RecurrentGemma: a short convolution, then the real-gated linear recurrent unit."""
    inputs = self.linear_x(input_states).transpose(1, 2)
    columns = with_columns_before(past_key_values, self.layer_idx, inputs, self.conv1d_width - 1)
    conv = self.conv_1d
    mixed = functional.conv1d(columns, conv.weight, conv.bias, groups=conv.groups).transpose(1, 2)
    kept, brought = _rg_lru_gates(self.rg_lru, mixed, position_ids)
    is_token = real_tokens(mixed)[..., None]
    kept, brought = torch.where(is_token, kept, 1.0), torch.where(is_token, brought, 0.0)
    kept, brought = (part[:, 0] for part in scan_linear(kept[:, None], brought[:, None], num_doublings(mixed.shape[1])))
    states = kept * _held(past_key_values, self.layer_idx, brought[:, 0])[:, None] + brought
    past_key_values.update_recurrent_state(states[:, -1], self.layer_idx)
    return self.linear_out(states * self.act_fn(self.linear_y(input_states))), None


def _rg_lru_gates(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``x [B, S, D]`` what is kept of the state at each token, and what the token brings."""

    def gate(weight: Tensor, bias: Tensor) -> Tensor:
        heads = x.reshape(*x.shape[:2], self.num_attention_heads, self.block_width).transpose(1, 2)
        return torch.sigmoid((heads @ weight + bias[:, None]).transpose(1, 2).reshape(x.shape))

    log_kept = -8.0 * gate(self.recurrent_gate_weight, self.recurrent_gate_bias)
    log_kept = log_kept * functional.softplus(self.recurrent_param)
    normalizer = torch.where(position_ids[..., None] == 0, 1.0, torch.sqrt(1 - torch.exp(2 * log_kept)))
    return log_kept.exp().float(), (x * gate(self.input_gate_weight, self.input_gate_bias) * normalizer).float()


def rwkv_model(
    self: Any, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, state: Any = None, **kwargs: Any
) -> Hidden:
    """RWKV: its forward, which gives ``state``, a cache, to its layers, and leaves the weights as they are."""
    hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
    every = self.config.rescale_every
    for number, block in enumerate(self.blocks):
        hidden = block.pre_ln(hidden) if number == 0 else hidden
        # Where the model has not run yet, its output weights are not divided yet.
        scale = 1.0 if self.layers_are_rescaled or every <= 0 else 0.5 ** (number // every)
        hidden = hidden + scale * block.attention(block.ln1(hidden), state)
        hidden = hidden + scale * block.feed_forward(block.ln2(hidden), state)
        if every > 0 and (number + 1) % every == 0:
            hidden = hidden / 2
    return Hidden(self.ln_out(hidden))


def _mixed(now: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return now * share + before * (1 - share)


def rwkv_attention(self: Any, hidden: Tensor, cache: Any) -> Tensor:
    """RWKV-4: an average of values, weighted by keys that decay channel by channel."""
    before = _token_before(cache, self.layer_id, hidden, 0)
    key = self.key(_mixed(hidden, before, self.time_mix_key)).float()
    value = self.value(_mixed(hidden, before, self.time_mix_value)).float()
    receptance = torch.sigmoid(self.receptance(_mixed(hidden, before, self.time_mix_receptance)))
    is_token = real_tokens(hidden)[..., None]
    element = (
        torch.where(is_token, -torch.exp(self.time_decay.float()), 0.0),
        torch.where(is_token, value, 0.0),
        is_token.to(value.dtype).expand_as(value),
        torch.where(is_token, key, MASKED),
    )
    numerator, denominator, maximum = (_held(cache, self.layer_id, value[:, 0], number) for number in range(3))
    # Where a sequence begins, all that is held is zero, also the maximum.
    start = (numerator, denominator, torch.where(denominator == 0, MASKED, maximum))
    decay, *seen = _scan_weighted(element, num_doublings(hidden.shape[1]))
    states = _added(decay, tuple(part[:, None] for part in start), tuple(seen))
    for number, part in enumerate(states):
        cache.update_recurrent_state(part[:, -1], self.layer_id, number)
    earlier = tuple(torch.cat([first[:, None], part[:, :-1]], 1) for first, part in zip(start, states, strict=True))
    numerator, denominator, _ = _added(0.0, earlier, (value, torch.ones_like(value), key + self.time_first))
    return self.output(receptance * (numerator / denominator))


_Average = tuple[Tensor, Tensor, Tensor]
"""Numerator and denominator of a weighted average, over the exponential of the third, the greatest log weight."""


def _added(decay: Tensor | float, earlier: _Average, later: _Average) -> _Average:
    """The average of both, where the log weights of the earlier have changed by ``decay``."""
    maximum = torch.maximum(earlier[2] + decay, later[2])
    left, right = (earlier[2] + decay - maximum).exp(), (later[2] - maximum).exp()
    return left * earlier[0] + right * later[0], left * earlier[1] + right * later[1], maximum


def _scan_weighted(
    element: tuple[Tensor, Tensor, Tensor, Tensor], num_rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All prefixes of decays and averages ``[B, S, D]`` along axis 1: each round doubles the length they cover."""
    num_tokens = element[0].shape[1]
    for doubling in range(num_rounds):
        shift = 1 << doubling
        neutral = (0.0, 0.0, 0.0, MASKED)
        before = tuple(
            functional.pad(part, (0, 0, shift, 0), value=fill)[:, :num_tokens]
            for part, fill in zip(element, neutral, strict=True)
        )
        element = (before[0] + element[0], *_added(element[0], before[1:], element[1:]))
    return element


def rwkv_feed_forward(self: Any, hidden: Tensor, cache: Any) -> Tensor:
    """RWKV-4: a feed-forward network over a token and the one before it."""
    before = _token_before(cache, self.layer_id, hidden, 1)
    key = torch.square(torch.relu(self.key(_mixed(hidden, before, self.time_mix_key))))
    return torch.sigmoid(self.receptance(_mixed(hidden, before, self.time_mix_receptance))) * self.value(key)


def xlstm_model(
    self: Any,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    cache_params: Any = None,
    **kwargs: Any,
) -> Hidden:
    """xLSTM: its forward, over a cache."""
    hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
    for layer_idx, block in enumerate(self.blocks):
        held = [cache_params.get_recurrent_state(layer_idx, number) for number in range(3)]
        hidden, states = block(hidden, None if held[0] is None else held)
        for number, state in enumerate(states):
            cache_params.update_recurrent_state(state, layer_idx, number)
    return Hidden(self.out_norm(hidden))


def mlstm(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    igate: Tensor,
    fgate: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """xLSTM's matrix memory.

    Args:
        query: ``[B, H, S, K]``, and so ``key``; ``value`` ``[B, H, S, V]``; gates ``[B, H, S]`` before activation.
        c_initial: ``[B, H, K, V]``; ``n_initial`` ``[B, H, K]``; ``m_initial`` ``[B, H, 1]``.

    Returns:
        ``[B, H, S, V]``, and the three states after the step.
    """
    query, key, value = query.float() * query.shape[-1] ** -0.5, key.float(), value.float()
    is_token = real_tokens(query.transpose(1, 2))[:, None]
    decay = torch.where(is_token, functional.logsigmoid(fgate.float()), 0.0).cumsum(-1)
    c = torch.zeros_like(key.transpose(2, 3) @ value) if c_initial is None else c_initial
    n = torch.zeros_like(key[:, :, 0]) if n_initial is None else n_initial
    m = torch.zeros_like(decay[..., :1]) if m_initial is None else m_initial
    seen, differences = decays_between(decay)
    log_weights = torch.where(seen, differences + torch.where(is_token, igate.float(), MASKED)[..., None, :], MASKED)
    greatest = torch.maximum(decay + m, log_weights.amax(-1))[..., None]  # [B, H, S, 1]
    weights = (log_weights - greatest).exp()
    left = ((decay + m)[..., None] - greatest).exp()
    scores = (query @ key.transpose(2, 3)) * weights
    numerator = left * (query @ c) + scores @ value
    denominator = left * (query @ n[..., None]) + scores.sum(-1, keepdim=True)
    output = numerator / (torch.maximum(denominator.abs(), (-greatest).exp()) + self.config.eps)
    brought, left = key.transpose(2, 3) * weights[:, :, -1:], left[:, :, -1:]  # [B, H, K, S], [B, H, 1, 1]
    return output, (left * c + brought @ value, left[..., 0] * n + brought.sum(-1), greatest[:, :, -1])


def zaya_projection(
    self: Any, hidden_states: Tensor, past_key_values: Any, conv_mask: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Zaya: convolutions over queries and keys, and values of which half are those of the token before."""
    shape, groups = hidden_states.shape[:2], self.num_key_value_groups
    heads = (*shape, -1, self.head_dim)
    queries, keys = self.q_proj(hidden_states), self.k_proj(hidden_states)
    query_residual = (queries.reshape(heads) + keys.reshape(heads).repeat_interleave(groups, dim=2)) * 0.5
    key_residual = query_residual.reshape(*shape, -1, groups, self.head_dim).mean(dim=-2)
    both = torch.cat([queries, keys], dim=-1).transpose(1, 2)
    columns = with_columns_before(past_key_values, self.layer_idx, both, self.conv_kernel_size)
    mixed = self.conv_qk_grouped(self.conv_qk_depthwise(columns)).transpose(1, 2)
    query, key = mixed.split([queries.shape[-1], keys.shape[-1]], dim=-1)
    value = torch.cat([self.v_proj_current(hidden_states), _delayed_values(self, hidden_states, past_key_values)], -1)
    return query.reshape(heads) + query_residual, key.reshape(heads) + key_residual, value.reshape(heads)


def _delayed_values(self: Any, hidden_states: Tensor, cache: Any) -> Tensor:
    # Kept without their bias: before the first token comes one of zeros, projected as the others are.
    values = functional.linear(hidden_states, self.v_proj_delayed.weight)
    held = _held(cache, self.layer_idx, values[:, 0])
    columns = torch.cat([held[:, None], values], dim=1)
    step = current_step()
    newest = columns[:, -1] if step is None else step.newest(columns.transpose(1, 2), 1)[..., 0]
    cache.update_recurrent_state(newest, self.layer_idx)
    bias = self.v_proj_delayed.bias
    return columns[:, :-1] if bias is None else columns[:, :-1] + bias
