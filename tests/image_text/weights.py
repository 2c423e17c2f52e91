"""Random weights over which answers depend on every token of the text and on every patch of the images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from architectures.tiny import spread_weights

_TIED = {"mirror": 3.0, "embeddings": 0.1, "zeros": 0.5}
"""Of a model whose head is tied to the embeddings."""
_LAST_NORM = r"(language_model|text_model|decoder|model)\.(norm|final_layer_?norm|embedding_norm|layer_norm)\.weight$"
_ELSEWHERE = r"vision|visual|resampler|encoder|vq|qformer"


def draw(model: Any, changes: Mapping[str, float], seed: int) -> None:
    """Draw a model's weights.

    ``changes`` of the usual spread go by parts of parameters' names, as those of the text architectures. ``mirror`` is
    the size of the last norm's weights, whose signs become random: a head that is tied to the embeddings would else
    repeat its input.
    """
    import torch

    spread = (_TIED if _is_tied(model) else {}) | dict(changes)
    from_zero = {name for name, weight in model.named_parameters() if weight.ndim == 1 and weight.abs().sum() == 0}
    spread_weights(model, spread, seed)
    norm = _last_norm(model)
    if norm is None or not spread.get("mirror"):
        return
    name, weight = norm
    with torch.no_grad():
        signs = torch.randint(0, 2, weight.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        weight.copy_(signs * spread["mirror"] - int(name in from_zero))


def _is_tied(model: Any) -> bool:
    from torch import nn

    head = model.get_output_embeddings()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return head is not None and any(head.weight is table for table in tables)


def _last_norm(model: Any) -> tuple[str, Any] | None:
    """The text model's norm before the head, and its name."""
    names = [
        (name, weight)
        for name, weight in model.named_parameters()
        if re.search(_LAST_NORM, name) and not re.search(_ELSEWHERE, name)
    ]
    return names[-1] if names else None
