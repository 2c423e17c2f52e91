"""Step 3.7: every expert on every token, weighted by the routing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from QEfficient.transformers.lowering.experts import routing_weights
from QEfficient.transformers.quirks import Quirk


def clamped_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """``[T, D]`` to ``[T, D]`` with routing ``[T, k]``."""
    tokens = hidden_states[None].repeat(self.num_experts, 1, 1)
    inner = self._apply_gate(tokens @ self.gate_up_proj.transpose(1, 2))
    routing = routing_weights(top_k_index, top_k_weights, self.num_experts)
    return ((inner @ self.down_proj.transpose(1, 2)) * routing.transpose(0, 1)[..., None]).sum(0)


QUIRK = Quirk(methods={"Step3p7Experts.forward": clamped_experts})
