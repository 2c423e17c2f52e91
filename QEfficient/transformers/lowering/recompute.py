"""Models that keep nothing between steps: the state is the tokens themselves, and every step runs over all of them.

Shape legend: B rows of this step, C slots of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.lowering.cache_spec import CTX_LEN, ROWS, StateSpec, StateTensor

TOKENS = StateSpec(kind="tokens", tensors=(StateTensor("past_tokens", (ROWS, CTX_LEN)),))
"""What a model that recomputes keeps: one state for all its layers."""

Inputs = Callable[[Any, Tensor, Tensor], tuple[dict[str, Any], Tensor]]
"""``(config, tokens [B, C] with zeros behind the newest, their number [B, 1])`` to the model's inputs, and the places
``[B, 1]`` in its output that predict the next token."""


@dataclass(frozen=True)
class Recomputed:
    """How an architecture is asked for the next token that runs over all tokens although it may have a cache."""

    inputs: Inputs
    num_added: int = 0
    """Places that it needs beside the tokens."""
    has_fixed_len: bool = False
    """Whether it compares the length of the text with sizes of its own."""


def plain_inputs(config: Any, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The tokens, and a mask of those that are there."""
    mask = (torch.arange(tokens.shape[1])[None] < count).to(torch.int64)
    return {"input_ids": tokens, "attention_mask": mask}, count - 1


def right_aligned_inputs(config: Any, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The tokens at the end of the row, zeros before them."""
    size = tokens.shape[1]
    sources = torch.arange(size)[None] - (size - count)
    moved = tokens.gather(1, sources.clamp(min=0))
    return {"input_ids": torch.where(sources >= 0, moved, 0)}, torch.zeros_like(count) + (size - 1)


def with_mask_token(config: Any, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """A mask token behind the newest, in whose place the next is predicted (XLM)."""
    tokens, places = _one_longer(tokens)
    inputs = {
        "input_ids": torch.where(places == count, config.mask_token_id, tokens),
        "attention_mask": (places <= count).to(torch.int64),
        "lengths": _NoLengths(tokens),
    }
    if config.lang_id is not None:
        inputs["langs"] = torch.full_like(tokens, config.lang_id)
    return inputs, count


def with_target_mapping(config: Any, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """An empty place behind the newest token that sees all before it and that none sees (XLNet)."""
    tokens, places = _one_longer(tokens)
    hidden = (places >= count).float()[:, None].expand(-1, tokens.shape[1], -1)
    target = (places == count).float()[:, None]
    return {"input_ids": tokens, "perm_mask": hidden, "target_mapping": target}, torch.zeros_like(count)


def _one_longer(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens with an empty place behind the last slot, and the numbers of all places."""
    tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
    return tokens, torch.arange(tokens.shape[1])[None]


class _NoLengths:
    """Stands for XLM's ``lengths``, which it checks as data even where a mask takes their part."""

    def __init__(self, tokens: Tensor):
        self.device, self._rows = tokens.device, tokens.shape[0]

    def size(self, axis: int) -> Any:
        return self._rows

    def max(self) -> _NoLengths:
        return self

    def item(self) -> int:
        return 0
