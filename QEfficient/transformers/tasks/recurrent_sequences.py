"""Texts through models with recurrent layers: as one step of a causal model, whose state begins with each text and is
not kept. transformers' own code for such layers goes over a text in chunks, as many as it is long."""

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
from QEfficient.transformers.tasks.sequence_inputs import Read, TextModel


class _OwnKeys(DynamicLayer):
    """Attention over the step's own tokens."""

    def __init__(self, spec: StateSpec, state: list[torch.Tensor], step: RetainedStep):
        super().__init__()
        self.step = step

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        return query_length, self.step.position_ids


class _OwnKeysAndRecurrence(RetainedRecurrentLayer, _OwnKeys):
    """Recurrence beside attention."""

    def __init__(self, spec: StateSpec, state: list[torch.Tensor], step: RetainedStep):
        _OwnKeys.__init__(self, spec, state, step)
        RetainedRecurrentLayer.__init__(self, spec, state, step)


_LAYERS: dict[StateKind, type[Any]] = {
    "full": _OwnKeys,
    "sliding": _OwnKeys,
    "linear": RetainedRecurrentLayer,
    "conv": RetainedRecurrentLayer,
    "hybrid": _OwnKeysAndRecurrence,
    "hybrid_sliding": _OwnKeysAndRecurrence,
    "none": RetainedNothing,
}


def recurrent_specs(model: Any) -> list[StateSpec] | None:
    """What the layers of ``model`` keep, or None where no layer is recurrent and where it does not say."""
    if model.config.is_encoder_decoder:
        return None
    try:
        specs = state_specs(model)
    except FAILURES:
        return None
    known = all(spec.kind in _LAYERS for spec in specs)
    return specs if known and any(spec.is_recurrent for spec in specs) else None


class RecurrentTextModel(TextModel):
    """As :class:`TextModel`; padding is on the right.

    Args:
        model: a lowered one.
        read: what the task wants of it.
        specs: what its layers keep.
        most_tokens: the longest text; recurrences are unrolled for it.
    """

    def __init__(self, model: nn.Module, read: Read, specs: list[StateSpec], most_tokens: int):
        super().__init__(model, read)
        self.specs, self.most_tokens = specs, most_tokens

    def _answer(self, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        positions = torch.where(attention_mask > 0, attention_mask.cumsum(1) - 1, -1)
        step = RetainedStep(positions, most_tokens=self.most_tokens)
        given = {name: value for name, value in arguments.items() if name != "attention_mask"}
        given |= {"position_ids": positions.clamp(min=0), cache_argument(self.model): self._cache(step)}
        with running(step), functions_replaced(self.model, KERNELS | NO_BLOCKS):
            return self.read(self.model, accepted(self.model, given | {"use_cache": True}), attention_mask)

    def _cache(self, step: RetainedStep) -> RetainedCache:
        layers = []
        for spec in self.specs:
            sizes = ([size for size in tensor.shape[1:] if isinstance(size, int)] for tensor in spec.tensors)
            state = [torch.zeros(step.position_ids.shape[0], *size) for size in sizes]
            layers.append(_LAYERS[spec.kind](spec, state, step))
        return RetainedCache(layers, step)
