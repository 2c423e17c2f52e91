"""Experts that are picked by loops over data, without them; see :mod:`QEfficient.transformers.quirks`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _routed(top_k_index: Tensor, top_k_weights: Tensor, num_experts: int) -> Tensor:
    """Routing weights ``[T, experts]`` of the top ones ``[T, k]``."""
    weights = top_k_weights.new_zeros(top_k_index.shape[0], num_experts)
    return weights.scatter_add(1, top_k_index, top_k_weights)


def dbrx_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    w1, v1, w2 = (weight.view(shape) for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2))
    # Repeated, not broadcast: OpenVINO's processor plugin multiplies stacked weights by stacked tokens alone.
    tokens = hidden_states.reshape(1, -1, self.hidden_size).repeat(self.num_experts, 1, 1)
    inner = self.mlp.activation_fn(tokens @ w1.transpose(1, 2)) * (tokens @ v1.transpose(1, 2))
    routing = _routed(top_k_index, top_k_weights, self.num_experts)
    output = ((inner @ w2) * routing.transpose(0, 1)[..., None]).sum(0)
    return output.reshape(hidden_states.shape)


def longcat_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    routing = _routed(top_k_index, top_k_weights, self.total_experts).to(hidden_states.dtype)
    real, identity = routing[:, : self.num_routed_experts], routing[:, self.num_routed_experts :]
    output = hidden_states * identity.sum(1, keepdim=True)
    if self.num_routed_experts:
        weight = self.gate_up_proj[: self.num_routed_experts].transpose(1, 2)
        tokens = hidden_states[None].repeat(self.num_routed_experts, 1, 1)
        gate, up = (tokens @ weight).chunk(2, dim=-1)
        states = (self.act_fn(gate) * up) @ self.down_proj.transpose(1, 2)
        output = output + (states * real.transpose(0, 1)[..., None]).sum(0)
    return output


def unsorted_gating(self: Any, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """JetMoE's, with pairs of token and expert in the tokens' order and the pairs' experts instead of their numbers."""
    logits = self.layer(hidden_states).float()
    top, experts = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(top, dim=1).type_as(hidden_states).flatten()
    pairs = torch.arange(gates.shape[0])
    return pairs, pairs.div(self.top_k, rounding_mode="floor"), gates, experts.flatten(), logits


def parallel_experts(self: Any, inputs: Tensor, experts: Tensor) -> Tensor:
    """``[P, in]`` to ``[P, out]``, each pair through its expert of ``experts [P]``."""
    outputs = inputs[None].repeat(self.num_experts, 1, 1) @ self.weight.transpose(1, 2)
    own = experts[None] == torch.arange(self.num_experts)[:, None]
    return (outputs * own[..., None]).sum(0)


def one_hot_experts(self: Any, hidden_states: Tensor, selected_experts: Tensor, routing_weights: Tensor) -> Tensor:
    """Every expert on every token, ``[T, D]``, of experts ``[T, 1, X]`` that are one or zero."""
    return _all_experts(self, hidden_states, selected_experts[:, 0] * routing_weights)


def numbered_experts(self: Any, hidden_states: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Every expert on every token, where each of the router's ones and zeros ``[T, K]`` is taken for a number.

    The router finds the padding of a text in the last columns of a mask, which here are slots to come.
    """
    tokens = hidden_states.flatten(0, 1)
    router_mask, router_probs, _ = self.router(tokens, None)
    numbers = torch.arange(self.num_experts)[None, None]
    weights = (router_probs[:, :, None] * (router_mask[:, :, None] == numbers)).sum(1)
    output = _all_experts(self.experts, tokens, weights * (1 - self.experts.moe_token_dropout))
    return output.reshape(hidden_states.shape)


def _all_experts(experts: nn.ModuleDict, hidden_states: Tensor, weights: Tensor) -> Tensor:
    output = torch.zeros_like(hidden_states)
    for number in range(weights.shape[1]):
        output = output + experts[f"expert_{number}"](hidden_states) * weights[:, number, None]
    return output
