"""LongCat-Flash: every expert on every token, weighted by the routing; identity experts as one scale."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from QEfficient.transformers.lowering.experts import routing_weights
from QEfficient.transformers.quirks import Quirk


def longcat_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """``[T, D]`` to ``[T, D]`` with routing ``[T, k]``; the last experts are the identity."""
    routing = routing_weights(top_k_index, top_k_weights, self.total_experts).to(hidden_states.dtype)
    real, identity = routing[:, : self.num_routed_experts], routing[:, self.num_routed_experts :]
    output = hidden_states * identity.sum(1, keepdim=True)
    if self.num_routed_experts:
        weight = self.gate_up_proj[: self.num_routed_experts].transpose(1, 2)
        tokens = hidden_states[None].repeat(self.num_routed_experts, 1, 1)
        gate, up = (tokens @ weight).chunk(2, dim=-1)
        states = (self.act_fn(gate) * up) @ self.down_proj.transpose(1, 2)
        output = output + (states * real.transpose(0, 1)[..., None]).sum(0)
    return output


QUIRK = Quirk(methods={"LongcatFlashExperts.forward": longcat_experts})
