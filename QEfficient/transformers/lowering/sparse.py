"""Sparse attention over keys that a model picks by scores."""

from __future__ import annotations

import torch
from torch.nn import functional

from QEfficient.transformers.lowering.masks import MASKED


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """1 at the ``count`` maxima of each row of ``scores [B, S, N]``, else 0; all of them where there are no more."""
    # Padding with lower scores than any, so that topk has enough to pick from.
    scores = functional.pad(scores, (0, count), value=2 * MASKED)
    return torch.zeros_like(scores).scatter(2, scores.topk(count, dim=2).indices, 1.0)[:, :, :-count]
