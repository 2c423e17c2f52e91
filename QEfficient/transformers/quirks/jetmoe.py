"""JetMoE: token-expert pairs in token order, each run through all experts and masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def unsorted_gating(self: Any, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """The router for tokens ``[T, D]``, without sorting its ``P = T * top_k`` token-expert pairs by expert.

    Returns:
        Order of the pairs, token, gate and expert of each (all ``[P]``), and the router's logits ``[T, experts]``.
    """
    logits = self.layer(hidden_states).float()
    top, experts = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(top, dim=1).type_as(hidden_states).flatten()
    pairs = torch.arange(gates.shape[0])
    return pairs, pairs.div(self.top_k, rounding_mode="floor"), gates, experts.flatten(), logits


def parallel_experts(self: Any, inputs: Tensor, experts: Tensor) -> Tensor:
    """``[P, in]`` to ``[P, out]``, each pair through its expert in ``experts [P]``."""
    outputs = inputs[None].repeat(self.num_experts, 1, 1) @ self.weight.transpose(1, 2)
    is_routed = experts[None] == torch.arange(self.num_experts)[:, None]
    return (outputs * is_routed[..., None]).sum(0)


QUIRK = Quirk(methods={"JetMoeTopKGating.forward": unsorted_gating, "JetMoeParallelExperts.forward": parallel_experts})
