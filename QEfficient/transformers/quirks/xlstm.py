"""xLSTM: the matrix memory over one chunk, with its state in transformers' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.models.xlstm.modeling_xlstm import xLSTMOutput

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.recurrences import (
    decays_between,
    real_tokens,
)
from QEfficient.transformers.quirks import LayerStates, Quirk


def xlstm_model(
    self: Any,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    cache_params: Cache | None = None,
    cache: Cache | None = None,
    **kwargs: object,
) -> xLSTMOutput:
    """The model's forward over transformers' cache, whose name is ``cache`` from transformers 5.24 on."""
    cache = cache_params if cache is None else cache
    assert cache is not None
    hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
    for layer_idx, block in enumerate(self.blocks):
        states = [cache.get_recurrent_state(layer_idx, number) for number in range(3)]
        hidden, new_states = block(hidden, None if states[0] is None else states)
        for number, state in enumerate(new_states):
            cache.update_recurrent_state(state, layer_idx, number)
    return xLSTMOutput(self.out_norm(hidden))


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
    **kwargs: object,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The matrix memory over one chunk.

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
    maximum = torch.maximum(decay + m, log_weights.amax(-1))[..., None]  # [B, H, S, 1]
    weights = (log_weights - maximum).exp()
    left = ((decay + m)[..., None] - maximum).exp()
    scores = (query @ key.transpose(2, 3)) * weights
    numerator = left * (query @ c) + scores @ value
    denominator = left * (query @ n[..., None]) + scores.sum(-1, keepdim=True)
    output = numerator / (torch.maximum(denominator.abs(), (-maximum).exp()) + self.config.eps)
    update, left = key.transpose(2, 3) * weights[:, :, -1:], left[:, :, -1:]  # [B, H, K, S], [B, H, 1, 1]
    return output, (left * c + update @ value, left[..., 0] * n + update.sum(-1), maximum[:, :, -1])


QUIRK = Quirk(
    methods={"xLSTMModel.forward": xlstm_model, "xLSTMBackend.forward": mlstm},
    layers=LayerStates("linear_attention", num_states=3),
)
