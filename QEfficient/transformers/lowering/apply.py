"""Applies a lowering to a Hugging Face model, through the extension points of transformers.

The user's model is never changed: a lowering applies to a copy whose weights are fake tensors (shapes and dtypes
only), which is all that tracing needs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.moe import ExpertsInterface

from QEfficient.transformers.lowering.attention import paged_attention, retained_attention
from QEfficient.transformers.lowering.experts import tiled_experts
from QEfficient.transformers.lowering.masks import additive_mask, no_mask
from QEfficient.transformers.lowering.positions import count_from_step
from QEfficient.transformers.lowering.rope import settle_rope
from QEfficient.transformers.quirks import apply_quirks

LoweringName = Literal["retained", "paged"]

_ATTENTION: dict[LoweringName, Any] = {
    "retained": (retained_attention, additive_mask),
    "paged": (paged_attention, no_mask),
}
_EXPERTS = "qeff_tiled"


def _implementation(lowering: LoweringName) -> str:
    return f"qeff_{lowering}"


def _register() -> None:
    """Register the lowerings with transformers; idempotent."""
    for lowering, (attention, mask) in _ATTENTION.items():
        AttentionInterface.register(_implementation(lowering), attention)
        AttentionMaskInterface.register(_implementation(lowering), mask)
    ExpertsInterface.register(_EXPERTS, tiled_experts)


@dataclass(frozen=True)
class LoweredModel:
    """A model without weights, ready to be traced.

    ``module`` and every tensor made for it belong to ``fake_mode``.
    """

    module: nn.Module
    fake_mode: FakeTensorMode
    parameters: tuple[tuple[torch.Tensor, nn.Parameter], ...] = ()
    """Each fake parameter with its original."""

    def original(self, fake: torch.Tensor) -> nn.Parameter | None:
        """The original of a fake parameter; None if there is none."""
        return next((parameter for stand_in, parameter in self.parameters if stand_in is fake), None)


def _fake_parameter(parameter: nn.Parameter, fake_mode: FakeTensorMode) -> nn.Parameter:
    """A float32 parameter without storage."""
    dtype = torch.float32 if parameter.is_floating_point() else parameter.dtype
    with fake_mode:
        return nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=False)


def weightless_copy(model: nn.Module) -> LoweredModel:
    """A copy of ``model`` that computes in float32 and whose parameters are fake; its buffers are real."""
    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    parameters = tuple((_fake_parameter(parameter, fake_mode), parameter) for parameter in model.parameters())
    fakes: dict[int, object] = {id(parameter): fake for fake, parameter in parameters}  # ties survive
    module = copy.deepcopy(model, memo=fakes).eval()
    for submodule in module.modules():
        for name, buffer in submodule.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.dtype != torch.float32:
                setattr(submodule, name, buffer.float())
    apply_quirks(module)
    return LoweredModel(module, fake_mode, parameters)


def lower(model: nn.Module, lowering: LoweringName, ctx_len: int | None = None) -> LoweredModel:
    """A weightless copy of ``model`` whose attention, masks and experts are those of ``lowering``.

    Args:
        model: a Hugging Face model; not changed.
        lowering: "retained" or "paged".
        ctx_len: maximum context length of the graph; fixes rotary scalings that depend on length.
    """
    lowered = weightless_copy(model)
    masked_as(lowered.module, lowering)
    for config in _configs(lowered.module):
        config._experts_implementation = _EXPERTS
    count_from_step(lowered.module)
    settle_rope(lowered.module, ctx_len)
    return lowered


def masked_as(model: Any, lowering: LoweringName) -> Any:
    """``model`` with the attention and masks of ``lowering``."""
    _register()
    for config in _configs(model):
        config._attn_implementation = _implementation(lowering)
    return model


def _configs(module: nn.Module) -> Iterator[Any]:
    seen: set[int] = set()
    for submodule in module.modules():
        config = getattr(submodule, "config", None)
        if isinstance(config, PreTrainedConfig) and id(config) not in seen:  # Idefics calls a number its config
            seen.add(id(config))
            yield config


def run_eagerly(model: nn.Module) -> LoweredModel:
    """A weightless copy of ``model`` with the attention and cache of transformers, for one run to inspect."""
    _register()
    lowered = weightless_copy(model)
    for config in _configs(lowered.module):
        config._attn_implementation = "eager"
        config._experts_implementation = _EXPERTS
    settle_rope(lowered.module, None)  # to look at a position's value would need one
    return lowered
