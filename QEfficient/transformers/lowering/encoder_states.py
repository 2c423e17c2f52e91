"""The output of an encoder, as decoders of transformers read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class EncoderStates(ModelOutput):
    """Hidden states ``[B, T, D]``, and what else models look for beside them, which is none."""

    last_hidden_state: torch.Tensor | None = None
    hidden_states: None = None
    attentions: None = None
    attention_mask: None = None
    router_probs: None = None
    router_logits: None = None
