"""Switch Transformers: every expert on every token, weighted by the routing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from QEfficient.transformers.lowering.experts import run_all_experts
from QEfficient.transformers.quirks import Quirk


def one_hot_experts(self: Any, hidden_states: Tensor, selected_experts: Tensor, routing_weights: Tensor) -> Tensor:
    """``[T, D]`` to ``[T, D]`` with one-hot ``selected_experts [T, 1, X]``."""
    return run_all_experts(self, hidden_states, selected_experts[:, 0] * routing_weights)


QUIRK = Quirk(methods={"SwitchTransformersExperts.forward": one_hot_experts})
