"""The graph of an encoder: hidden states, or one pooled vector a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from QEfficient.errors import OptionError, nearest
from QEfficient.transformers.tasks.contract import GraphInput, TaskGraph
from QEfficient.transformers.transform import lower, max_positions

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the mean over each text's own tokens."""
    weights = attention_mask[:, :, None].to(last_hidden_states.dtype)
    return (last_hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def max_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the greatest value of each feature over each text's own tokens."""
    lowest = torch.finfo(last_hidden_states.dtype).min
    return torch.where(attention_mask[:, :, None] > 0, last_hidden_states, lowest).amax(1)


def cls_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the first token's state."""
    return last_hidden_states[:, 0]


POOLINGS: dict[str, Pooling] = {"mean": mean_pooling, "avg": mean_pooling, "max": max_pooling, "cls": cls_pooling}


def resolve_pooling(pooling: str | Pooling | None) -> Pooling | None:
    """The pooling function for a name, a function or None.

    Raises:
        OptionError: no pooling has this name.
    """
    if pooling is None or callable(pooling):
        return pooling
    if pooling not in POOLINGS:
        raise OptionError(
            f"There is no pooling '{pooling}'.{nearest(pooling, POOLINGS)} Known: {', '.join(POOLINGS)}, None, or a "
            "function (last_hidden_states, attention_mask) -> tensor."
        )
    return POOLINGS[pooling]


class Encoder(nn.Module):
    """``(input_ids, attention_mask)``, both ``[B, S]``, to hidden states ``[B, S, D]`` or pooled ones ``[B, D]``."""

    def __init__(self, model: nn.Module, pooling: Pooling | None):
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        input_ids, attention_mask = inputs
        extra = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        output: Any = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra)
        states = output.last_hidden_state.float()
        return states if self.pooling is None else self.pooling(states, attention_mask)


def encoder_graph(model: nn.Module, pooling: str | Pooling | None) -> TaskGraph:
    """The graph of ``model`` with axes ``batch_size`` and ``seq_len``."""
    lowered = lower(model, "retained")
    axes = {0: "batch_size", 1: "seq_len"}
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    function = resolve_pooling(pooling)
    limit = max_positions(model.config)
    return TaskGraph(
        module=_Named(Encoder(lowered.module, function)).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=getattr(model.config, "num_hidden_layers", 0),
        inputs=[
            GraphInput("input_ids", torch.zeros(3, 7, dtype=torch.int64), axes),
            GraphInput("attention_mask", mask, axes),
        ],
        output_names=["output"],
        axis_limits={} if limit is None else {"seq_len": limit},
        output_axes={"output": axes if function is None else {0: "batch_size"}},
    )


class _Named(nn.Module):
    """Puts the model at ``inner.model``, where the weights of every task are looked for."""

    def __init__(self, inner: Encoder):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(*inputs)
