"""Ernie 4.5 VL: the experts of text and those of images on every token, each token with the output of its kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def experts_by_token_type(
    self: Any, hidden_states: Tensor, moe_mm_token_type_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``[B, S, D]`` to ``[B, S, D]`` with token types ``[B, S]``, 0 for text; and the router's logits."""
    output, logits = self.text_moe(hidden_states)
    output = output.reshape(hidden_states.shape)
    if moe_mm_token_type_ids is not None:
        seen, seen_logits = self.vision_moe(hidden_states)
        is_seen = moe_mm_token_type_ids.bool()
        output = torch.where(is_seen[..., None], seen.reshape(hidden_states.shape), output)
        logits = torch.where(is_seen.reshape(-1, 1), seen_logits.reshape(logits.shape), logits)
    if self.shared_experts is not None:
        output = output + self.shared_experts(hidden_states)
    return output, logits.reshape(-1, self.num_experts)


QUIRK = Quirk(methods={"Ernie4_5_VLMoeMoeBlock.forward": experts_by_token_type})
