"""RWKV-4: time mixing as one scan, with its state in transformers' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.models.rwkv.modeling_rwkv import RwkvOutput

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.recurrences import (
    columns_with_past,
    num_doublings,
    real_tokens,
    recurrent_state,
)
from QEfficient.transformers.quirks import LayerStates, Quirk


def rwkv_model(
    self: Any,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    state: Cache | None = None,
    **kwargs: object,
) -> RwkvOutput:
    """The model's forward with ``state`` as transformers' cache; it does not divide the weights in place."""
    hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
    every = self.config.rescale_every
    for number, block in enumerate(self.blocks):
        hidden = block.pre_ln(hidden) if number == 0 else hidden
        # Until the model has run once, its output weights are not divided.
        scale = 1.0 if self.layers_are_rescaled or every <= 0 else 0.5 ** (number // every)
        hidden = hidden + scale * block.attention(block.ln1(hidden), state)
        hidden = hidden + scale * block.feed_forward(block.ln2(hidden), state)
        if every > 0 and (number + 1) % every == 0:
            hidden = hidden / 2
    return RwkvOutput(self.ln_out(hidden))


def rwkv_attention(self: Any, hidden: Tensor, cache: Cache) -> Tensor:
    """``[B, S, D]`` to ``[B, S, D]``: an average of values, weighted by keys that decay per channel."""
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
    numerator, denominator, maximum = (
        recurrent_state(cache, self.layer_id, value[:, 0], number) for number in range(3)
    )
    # At the beginning of a sequence the state is zero, also its maximum.
    start = (numerator, denominator, torch.where(denominator == 0, MASKED, maximum))
    decay, *seen = _scan_weighted(element, num_doublings(hidden.shape[1]))
    states = _added(decay, tuple(part[:, None] for part in start), tuple(seen))
    for number, part in enumerate(states):
        cache.update_recurrent_state(part[:, -1], self.layer_id, number)
    earlier = tuple(torch.cat([first[:, None], part[:, :-1]], 1) for first, part in zip(start, states, strict=True))
    numerator, denominator, _ = _added(0.0, earlier, (value, torch.ones_like(value), key + self.time_first))
    return self.output(receptance * (numerator / denominator))


def rwkv_feed_forward(self: Any, hidden: Tensor, cache: Cache) -> Tensor:
    """``[B, S, D]`` to ``[B, S, D]``: a feed-forward network over each token and the one before it."""
    before = _token_before(cache, self.layer_id, hidden, 1)
    key = torch.square(torch.relu(self.key(_mixed(hidden, before, self.time_mix_key))))
    return torch.sigmoid(self.receptance(_mixed(hidden, before, self.time_mix_receptance))) * self.value(key)


def _token_before(cache: Cache, layer_idx: int, hidden: Tensor, state_idx: int) -> Tensor:
    """For each token of ``hidden [B, S, D]`` the one before it, zeros before the first."""
    columns = columns_with_past(cache, layer_idx, hidden.transpose(1, 2), 1, state_idx)
    return columns[..., :-1].transpose(1, 2)


def _mixed(now: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return now * share + before * (1 - share)


_Average = tuple[Tensor, Tensor, Tensor]
"""Numerator and denominator of a weighted average, both divided by exp of the third, the maximum log weight."""


def _added(decay: Tensor | float, earlier: _Average, later: _Average) -> _Average:
    """Merge two averages, after adding ``decay`` to the log weights of the earlier one."""
    maximum = torch.maximum(earlier[2] + decay, later[2])
    earlier_scale, later_scale = (earlier[2] + decay - maximum).exp(), (later[2] - maximum).exp()
    numerator, denominator = (earlier_scale * earlier[i] + later_scale * later[i] for i in range(2))
    return numerator, denominator, maximum


def _scan_weighted(
    element: tuple[Tensor, Tensor, Tensor, Tensor], num_rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prefix scan of decays and averages ``[B, S, D]`` along axis 1; each round doubles the length covered."""
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


QUIRK = Quirk(
    methods={
        "RwkvModel.forward": rwkv_model,
        "RwkvSelfAttention.forward": rwkv_attention,
        "RwkvFeedForward.forward": rwkv_feed_forward,
    },
    layers=LayerStates("linear_attention", num_states=3),
)
