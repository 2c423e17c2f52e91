"""Whisper: an encoder that runs over shorter audio too, since a card's one program runs it in every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from QEfficient.transformers.quirks import Quirk


def encode(self: Any, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
    """``[B, mels, T]`` to ``[B, T / 2, D]``, for any ``T`` that there are positions for."""
    states = nn.functional.gelu(self.conv1(input_features))
    states = nn.functional.gelu(self.conv2(states)).permute(0, 2, 1)
    states = states + self.embed_positions(torch.arange(states.shape[1]))
    for layer in self.layers:
        states = layer(states, None)
    return BaseModelOutput(last_hidden_state=self.layer_norm(states))


QUIRK = Quirk(methods={"WhisperEncoder.forward": encode})
