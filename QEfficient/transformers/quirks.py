"""What single architectures need beyond the seams: the only place where a model type is named.

A quirk changes a weightless copy of the model before it is run or traced, and says why nothing general does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from QEfficient.transformers.context_ops import attention
from QEfficient.transformers.masks import MASKED
from QEfficient.transformers.recomputing import (
    Recomputed,
    right_aligned_inputs,
    with_mask_token,
    with_target_mapping,
)
from QEfficient.transformers.recurrent_quirks import (
    lightning_attention,
    mlstm,
    numbered_blocks,
    rg_lru_block,
    rwkv_attention,
    rwkv_feed_forward,
    rwkv_model,
    without_use_cache,
    xlstm_model,
    zaya_projection,
)
from QEfficient.transformers.relative_quirks import relative_attention, relative_sink_attention
from QEfficient.transformers.retained_state import current_step


@dataclass(frozen=True)
class Quirk:
    """One change, for the modules of one class in some architectures."""

    model_types: frozenset[str]
    module: str
    """Name of the modules' class."""
    method: str
    """The method that is replaced."""
    by: Callable[..., Any]
    """Takes the module first."""
    reason: str


@dataclass(frozen=True)
class LayerStates:
    """What the layers of an architecture keep, where its config has no layer types."""

    layer_type: str
    num_states: int
    """Convolutions or recurrent states of a layer, whichever are more."""


def apply_quirks(model: nn.Module) -> None:
    """Change ``model``, a copy that is not the user's, as its architecture needs."""
    _describe_layers(model.config)
    own = {getattr(getattr(module, "config", None), "model_type", None) for module in model.modules()}
    for quirk in QUIRKS:
        if own & quirk.model_types:
            for module in model.modules():
                if type(module).__name__ == quirk.module:
                    setattr(module, quirk.method, MethodType(quirk.by, module))


def _describe_layers(config: Any) -> None:
    found = LAYER_STATES.get(config.model_type)
    if found is not None:
        config.layer_types = [found.layer_type] * config.num_hidden_layers
        config.number_of_conv_states = found.num_states


def _routed(top_k_index: Tensor, top_k_weights: Tensor, num_experts: int) -> Tensor:
    """Routing weights ``[T, experts]`` of the top ones ``[T, k]``."""
    weights = top_k_weights.new_zeros(top_k_index.shape[0], num_experts)
    return weights.scatter_add(1, top_k_index, top_k_weights)


def _dbrx_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    w1, v1, w2 = (weight.view(shape) for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2))
    tokens = hidden_states.reshape(1, -1, self.hidden_size)
    inner = self.mlp.activation_fn(tokens @ w1.transpose(1, 2)) * (tokens @ v1.transpose(1, 2))
    routing = _routed(top_k_index, top_k_weights, self.num_experts)
    output = ((inner @ w2) * routing.transpose(0, 1)[..., None]).sum(0)
    return output.reshape(hidden_states.shape)


def _longcat_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    routing = _routed(top_k_index, top_k_weights, self.total_experts).to(hidden_states.dtype)
    real, identity = routing[:, : self.num_routed_experts], routing[:, self.num_routed_experts :]
    output = hidden_states * identity.sum(1, keepdim=True)
    if self.num_routed_experts:
        weight = self.gate_up_proj[: self.num_routed_experts].transpose(1, 2)
        gate, up = (hidden_states[None] @ weight).chunk(2, dim=-1)
        states = (self.act_fn(gate) * up) @ self.down_proj.transpose(1, 2)
        output = output + (states * real.transpose(0, 1)[..., None]).sum(0)
    return output


def _gpt_neo_attention(
    self: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    step = current_step()
    if step is not None and self.attention_type == "local":
        back = step.position_ids[:, None, :, None] - torch.arange(key.shape[2])
        too_far = torch.where(back < self.config.window_size, 0.0, MASKED)
        attention_mask = too_far if attention_mask is None else torch.minimum(attention_mask, too_far)
    return attention(query, key, value, attention_mask, None, 1.0).transpose(1, 2), None


LAYER_STATES = {"rwkv": LayerStates("linear_attention", 3), "xlstm": LayerStates("linear_attention", 3)}

_COUNTS = "it counts the positions of queries and keys from the length of its cache, the same for all rows"
_OWN_CACHE = "it keeps its state outside transformers' cache, and loops over tokens"
_DATA_DEPENDENT = "its experts are picked by a loop over data, and it does not take an implementation from outside"

QUIRKS = (
    Quirk(frozenset({"dbrx"}), "DbrxExperts", "forward", _dbrx_experts, _DATA_DEPENDENT),
    Quirk(frozenset({"longcat_flash"}), "LongcatFlashExperts", "forward", _longcat_experts, _DATA_DEPENDENT),
    Quirk(
        frozenset({"gpt_neo"}),
        "GPTNeoSelfAttention",
        "_attn",
        _gpt_neo_attention,
        "its masks are slices of a buffer by the number of keys, which takes the last slot for the newest token",
    ),
    Quirk(frozenset({"minimax"}), "MiniMaxLightningAttention", "forward", lightning_attention, _OWN_CACHE),
    Quirk(frozenset({"minimax"}), "MiniMaxModel", "forward", without_use_cache, "it refuses any cache but its own"),
    Quirk(frozenset({"recurrent_gemma"}), "RecurrentGemmaRecurrentBlock", "forward", rg_lru_block, _OWN_CACHE),
    Quirk(
        frozenset({"recurrent_gemma"}),
        "RecurrentGemmaModel",
        "forward",
        numbered_blocks,
        "its recurrent blocks do not know which layer of the cache is theirs",
    ),
    Quirk(frozenset({"rwkv"}), "RwkvModel", "forward", rwkv_model, "it divides its weights when it first runs"),
    Quirk(frozenset({"rwkv"}), "RwkvSelfAttention", "forward", rwkv_attention, _OWN_CACHE),
    Quirk(frozenset({"rwkv"}), "RwkvFeedForward", "forward", rwkv_feed_forward, _OWN_CACHE),
    Quirk(frozenset({"xlstm"}), "xLSTMModel", "forward", xlstm_model, _OWN_CACHE),
    Quirk(frozenset({"xlstm"}), "xLSTMBackend", "forward", mlstm, _OWN_CACHE),
    Quirk(frozenset({"inkling_text"}), "InklingAttention", "forward", relative_attention, _COUNTS),
    Quirk(frozenset({"inkling2_text"}), "Inkling2SlidingAttention", "forward", relative_sink_attention, _COUNTS),
    Quirk(frozenset({"inkling2_text"}), "Inkling2FullAttention", "forward", relative_sink_attention, _COUNTS),
    Quirk(
        frozenset({"zaya"}),
        "ZayaCCAProjection",
        "forward",
        zaya_projection,
        "it puts the columns before a step in front itself and hands the cache the last ones, padding or not",
    ),
)

_APPENDS = "it predicts in the place of a token that is put behind the newest, so no step is a continuation of the last"

RECOMPUTED = {
    "cpmant": Recomputed(
        "its code takes the whole text at every step to find its past in it", right_aligned_inputs, has_fixed_len=True
    ),
    "xlm": Recomputed(_APPENDS, with_mask_token, num_added=1),
    "xlnet": Recomputed(_APPENDS, with_target_mapping, num_added=1),
}
"""Model types that run over all tokens at every step although they may have a cache."""
