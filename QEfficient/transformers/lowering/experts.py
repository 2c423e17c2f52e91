"""Expert dispatch for transformers' ``ExpertsInterface``: every expert on every token, weighted by the routing.

Shape legend: T tokens, X experts, D hidden size, F expert's inner size.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.integrations.moe import _default_apply_gate


def _project(module: nn.Module, name: str, states: torch.Tensor) -> torch.Tensor:
    """``[X, T, in]`` through the stacked weights called ``name``."""
    weight = getattr(module, name)
    output = states @ (weight if module.is_transposed else weight.transpose(1, 2))
    bias = getattr(module, f"{name}_bias", None)
    return output if bias is None else output + bias[:, None]


def _inner(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    if not module.has_gate:
        return module.act_fn(_project(module, "up_proj", states))
    return module._apply_gate(_project(module, "gate_up_proj", states))


def _inner_apart(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Gate and up projected apart: the form that a compiler recognises as a gated expert."""
    axis = 2 if module.is_transposed else 1
    gate, up = module.gate_up_proj.chunk(2, dim=axis)
    if not module.is_transposed:
        gate, up = gate.transpose(1, 2), up.transpose(1, 2)
    gated, linear = states @ gate, states @ up
    if module.has_bias:
        gate_bias, up_bias = module.gate_up_proj_bias.chunk(2, dim=-1)
        gated, linear = gated + gate_bias[:, None], linear + up_bias[:, None]
    return module.act_fn(gated) * linear


def tiled_experts(
    module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """``[T, D]`` to ``[T, D]`` without an index that depends on data reaching a weight.

    OpenVINO turns this form into gathered matmuls that compute the routed experts only.
    """
    num_tokens, hidden_dim = hidden_states.shape
    tiled = hidden_states.repeat(module.num_experts, 1).view(module.num_experts, num_tokens, hidden_dim)
    plain_gate = module.has_gate and module.is_concatenated and type(module)._apply_gate is _default_apply_gate
    inner = (_inner_apart if plain_gate else _inner)(module, tiled)
    output = _project(module, "down_proj", inner).view(module.num_experts, num_tokens, hidden_dim)
    if module.has_post_expert_norm:
        output = module.post_expert_norm(output)
    routing = torch.zeros(num_tokens, module.num_experts, dtype=output.dtype, device=output.device)
    routing = routing.scatter(1, top_k_index, top_k_weights.to(output.dtype))
    return (output * routing.transpose(0, 1)[..., None]).sum(dim=0).to(hidden_states.dtype)


def routing_weights(top_k_index: torch.Tensor, top_k_weights: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Dense routing ``[T, X]`` from the top experts ``[T, k]`` and their weights."""
    weights = top_k_weights.new_zeros(top_k_index.shape[0], num_experts)
    return weights.scatter_add(1, top_k_index, top_k_weights)


def run_all_experts(experts: nn.ModuleDict, hidden_states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Every expert on every token ``[T, D]``, weighted by ``[T, X]``."""
    output = torch.zeros_like(hidden_states)
    for number in range(weights.shape[1]):
        output = output + experts[f"expert_{number}"](hidden_states) * weights[:, number, None]
    return output
