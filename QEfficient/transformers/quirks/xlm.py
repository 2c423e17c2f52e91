"""XLM: predicts at a mask token after the newest token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from QEfficient.transformers.lowering.recompute import Recomputed, one_longer
from QEfficient.transformers.quirks import Quirk


def with_mask_token(config: PreTrainedConfig, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Append a mask token after the newest; the next token is predicted there."""
    tokens, places = one_longer(tokens)
    inputs = {
        "input_ids": torch.where(places == count, config.mask_token_id, tokens),
        "attention_mask": (places <= count).to(torch.int64),
        "lengths": _NoLengths(tokens),
    }
    if config.lang_id is not None:
        inputs["langs"] = torch.full_like(tokens, config.lang_id)
    return inputs, count


class _NoLengths:
    """A stand-in for ``lengths``, whose values XLM checks even when it uses the mask instead."""

    def __init__(self, tokens: Tensor):
        self.device, self._rows = tokens.device, tokens.shape[0]

    def size(self, axis: int) -> Any:
        return self._rows

    def max(self) -> _NoLengths:
        return self

    def item(self) -> int:
        return 0


QUIRK = Quirk(recomputed=Recomputed(with_mask_token, num_added=1))
