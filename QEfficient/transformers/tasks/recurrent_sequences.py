"""Whole sequences through models with recurrent layers, as one step of a causal model that starts from an empty state.

The code of such layers in transformers loops over chunks, whose number depends on the length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer

from QEfficient.transformers.lowering.cache_layers import RetainedCache, RetainedNothing, RetainedRecurrentLayer
from QEfficient.transformers.lowering.cache_spec import StateKind, StateSpec
from QEfficient.transformers.lowering.infer_cache_spec import accepted, cache_argument, state_specs
from QEfficient.transformers.lowering.masks import NO_BLOCKS
from QEfficient.transformers.lowering.recurrences import KERNELS
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.lowering.step import RetainedStep, running
from QEfficient.transformers.patches import functions_replaced
from QEfficient.transformers.tasks.sequence_inputs import Read, SequenceModel


class _StepKeys(DynamicLayer):
    """Attention over the tokens of the step only."""

    def __init__(self, spec: StateSpec, state: list[torch.Tensor], step: RetainedStep):
        super().__init__()
        self.step = step

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object) -> Any:
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        return query_length, self.step.position_ids


class _StepKeysAndRecurrence(RetainedRecurrentLayer, _StepKeys):
    """Recurrence beside attention."""

    def __init__(self, spec: StateSpec, state: list[torch.Tensor], step: RetainedStep):
        _StepKeys.__init__(self, spec, state, step)
        RetainedRecurrentLayer.__init__(self, spec, state, step)


_LAYERS: dict[StateKind, type[Any]] = {
    "full": _StepKeys,
    "sliding": _StepKeys,
    "linear": RetainedRecurrentLayer,
    "conv": RetainedRecurrentLayer,
    "hybrid": _StepKeysAndRecurrence,
    "hybrid_sliding": _StepKeysAndRecurrence,
    "none": RetainedNothing,
}


def recurrent_specs(model: nn.Module) -> list[StateSpec] | None:
    """State of each layer of ``model``; None if no layer is recurrent or the layers cannot be inspected."""
    if model.config.is_encoder_decoder:
        return None
    try:
        specs = state_specs(model)
    except FAILURES:
        return None
    known = all(spec.kind in _LAYERS for spec in specs)
    return specs if known and any(spec.is_recurrent for spec in specs) else None


class RecurrentSequenceModel(SequenceModel):
    """As :class:`SequenceModel`, with padding on the right.

    Args:
        model: a lowered model.
        read: returns the output that the task needs.
        specs: state of each layer.
        max_len: maximum length of a sequence; recurrences are unrolled for it.
    """

    def __init__(self, model: nn.Module, read: Read, specs: list[StateSpec], max_len: int):
        super().__init__(model, read)
        self.specs, self.max_len = specs, max_len

    def _run(self, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        positions = torch.where(attention_mask > 0, attention_mask.cumsum(1) - 1, -1)
        step = RetainedStep(positions, max_step_len=self.max_len)
        inputs = {name: value for name, value in arguments.items() if name != "attention_mask"}
        inputs |= {
            "position_ids": positions.clamp(min=0),
            cache_argument(self.model): self._cache(step),
            "use_cache": True,
        }
        with running(step), functions_replaced(self.model, KERNELS | NO_BLOCKS):
            return self.read(self.model, accepted(self.model, inputs), attention_mask)

    def _cache(self, step: RetainedStep) -> RetainedCache:
        layers = []
        for spec in self.specs:
            sizes = ([size for size in tensor.shape[1:] if isinstance(size, int)] for tensor in spec.tensors)
            state = [torch.zeros(step.position_ids.shape[0], *size) for size in sizes]
            layers.append(_LAYERS[spec.kind](spec, state, step))
        return RetainedCache(layers, step)
