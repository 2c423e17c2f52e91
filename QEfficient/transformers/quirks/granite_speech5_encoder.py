"""Granite Speech 5: blocks of local attention cut without asking whether there is anything to pad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from QEfficient.transformers.quirks import Quirk


def attention_in_blocks(
    self: Any, hidden_states: Tensor, position_embeddings: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The module's forward over whole blocks, of which the first ``S`` places are returned."""
    batch_size, length, _ = hidden_states.shape
    num_blocks = (length + self.context_size - 1) // self.context_size
    added = num_blocks * self.context_size - length
    mask = torch.ones(batch_size, length, dtype=torch.bool) if attention_mask is None else attention_mask
    states = nn.functional.pad(hidden_states, (0, 0, 0, added))
    mask = nn.functional.pad(mask, (0, added), value=False)
    output, _ = type(self).forward(self, states, position_embeddings, mask, **kwargs)
    return output[:, :length], None


QUIRK = Quirk(methods={"GraniteSpeech5EncoderAttention.forward": attention_in_blocks})
