"""NLLB-MoE: every expert on every token, weighted by the routing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.lowering.experts import run_all_experts
from QEfficient.transformers.quirks import Quirk


def numbered_experts(self: Any, hidden_states: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """``[B, S, D]``. Like the original, it uses the router's one-hot mask ``[T, K]`` as expert numbers.

    The router gets no padding mask: it reads the last columns, which here are empty slots.
    """
    tokens = hidden_states.flatten(0, 1)
    router_mask, router_probs, _ = self.router(tokens, None)
    numbers = torch.arange(self.num_experts)[None, None]
    weights = (router_probs[:, :, None] * (router_mask[:, :, None] == numbers)).sum(1)
    output = run_all_experts(self.experts, tokens, weights * (1 - self.experts.moe_token_dropout))
    return output.reshape(hidden_states.shape)


QUIRK = Quirk(methods={"NllbMoeSparseMLP.forward": numbered_experts})
