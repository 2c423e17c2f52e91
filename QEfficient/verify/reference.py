"""Hugging Face's model itself, in float32: what a package is compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from QEfficient.transformers.lowering.rope import forget_lengths
from QEfficient.verify.perplexity import Scorer, Window, negative_log_likelihood

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 64
"""Of logits that are in float64 at a time."""


def in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """``model``, or a float32 copy of it."""
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def fitting_len(model: PreTrainedModel, length: int) -> int:
    """``length``, or the model's positions if they are fewer."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(length, limit or length)


def model_scores(model: PreTrainedModel) -> Scorer:
    """Runs a Hugging Face model, one window at a time, as it is."""

    def score(ids: Sequence[int], planned: Sequence[Window]) -> Iterator[float]:
        for window in planned:
            yield _score(model, ids[window.begin : window.end], window.first_scored - window.begin)

    return score


def _score(model: PreTrainedModel, tokens: Sequence[int], first_scored: int) -> float:
    forget_lengths(model)
    with torch.no_grad():
        output = model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    logits, targets = output.logits[0, first_scored - 1 : -1], tokens[first_scored:]
    parts = (slice(start, start + _ROWS) for start in range(0, len(targets), _ROWS))
    return sum(negative_log_likelihood(logits[part].float().cpu().numpy(), targets[part]) for part in parts)
