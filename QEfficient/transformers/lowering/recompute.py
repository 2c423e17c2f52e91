"""Models without a cache: their state is the tokens, and every step runs over all tokens.

Shape legend: B rows of this step, C slots of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from QEfficient.transformers.lowering.cache_spec import CTX_LEN, ROWS, StateSpec, StateTensor

TOKENS = StateSpec(kind="tokens", tensors=(StateTensor("past_tokens", (ROWS, CTX_LEN)),))
"""State of a model that recomputes: one tensor for all its layers."""

Inputs = Callable[[PreTrainedConfig, Tensor, Tensor], tuple[dict[str, Any], Tensor]]
"""``(config, tokens [B, C] with zeros after the newest, their number [B, 1])`` to the model's inputs, and the indices
``[B, 1]`` in its output that predict the next token."""


@dataclass(frozen=True)
class Recomputed:
    """Inputs of a model that runs over all tokens at every step although it may have a cache."""

    inputs: Inputs
    num_added: int = 0
    """Number of positions appended to the tokens."""
    has_fixed_len: bool = False
    """Whether its code depends on the number of slots."""


def plain_inputs(config: PreTrainedConfig, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The tokens, and their attention mask."""
    mask = (torch.arange(tokens.shape[1])[None] < count).to(torch.int64)
    return {"input_ids": tokens, "attention_mask": mask}, count - 1


def one_longer(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``tokens`` with one empty position appended, ``[B, C + 1]``, and the indices of all positions."""
    tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
    return tokens, torch.arange(tokens.shape[1])[None]
