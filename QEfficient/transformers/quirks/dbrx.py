"""DBRX: every expert on every token, weighted by the routing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from QEfficient.transformers.lowering.experts import routing_weights
from QEfficient.transformers.quirks import Quirk


def dbrx_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """``[T, D]`` to ``[T, D]`` with routing ``[T, k]``."""
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    w1, v1, w2 = (weight.view(shape) for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2))
    # Repeated, not broadcast: OpenVINO's processor plugin multiplies stacked weights by stacked tokens alone.
    tokens = hidden_states.reshape(1, -1, self.hidden_size).repeat(self.num_experts, 1, 1)
    inner = self.mlp.activation_fn(tokens @ w1.transpose(1, 2)) * (tokens @ v1.transpose(1, 2))
    routing = routing_weights(top_k_index, top_k_weights, self.num_experts)
    output = ((inner @ w2) * routing.transpose(0, 1)[..., None]).sum(0)
    return output.reshape(hidden_states.shape)


QUIRK = Quirk(methods={"DbrxExperts.forward": dbrx_experts})
