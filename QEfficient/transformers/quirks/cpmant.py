"""CPM-Ant: the tokens at the end of the row, as the model expects them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from QEfficient.transformers.lowering.recompute import Recomputed
from QEfficient.transformers.quirks import Quirk


def right_aligned_inputs(config: PreTrainedConfig, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Move the tokens to the end of the row, with zeros before them."""
    size = tokens.shape[1]
    sources = torch.arange(size)[None] - (size - count)
    moved = tokens.gather(1, sources.clamp(min=0))
    return {"input_ids": torch.where(sources >= 0, moved, 0)}, torch.zeros_like(count) + (size - 1)


QUIRK = Quirk(recomputed=Recomputed(right_aligned_inputs, has_fixed_len=True))
