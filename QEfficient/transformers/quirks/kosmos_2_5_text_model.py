"""Kosmos-2.5: positions from an offset, and masks of patches that pad an image."""

from __future__ import annotations

from typing import Any

import torch

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def positions_of_step(self: Any, input_ids: torch.Tensor, **inputs: object) -> torch.Tensor:
    """Embeddings ``[B, S, D]`` of the step's positions; zeros for tokens that pad."""
    step = current_step()
    if step is None:
        return type(self).forward(self, input_ids, **inputs)
    places = step.position_ids.clamp(min=0) + self.padding_idx + 1
    return self.weights[torch.where(input_ids == self.padding_idx, self.padding_idx, places)]


def patches_mask(self: Any, attention_mask: torch.Tensor, *others: object) -> torch.Tensor:
    """The mask ``[B, 1, 1, L]`` that hides the patches where ``attention_mask [B, L]`` is 0."""
    return torch.where(attention_mask > 0, 0.0, MASKED)[:, None, None]


QUIRK = Quirk(
    methods={
        "Kosmos2_5TextSinusoidalPositionalEmbedding.forward": positions_of_step,
        "Kosmos2_5VisionEncoder._prepare_attention_mask": patches_mask,
    }
)
