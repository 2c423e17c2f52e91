"""Random weights over which answers depend on every token of the text and on every patch of the images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from architectures.tiny import spread_weights

_LAST_NORM = r"(norm|final_layernorm|final_layer_norm|ln_f|layernorm_embedding|embedding_norm)\.weight$"


def draw(model: Any, spread: Mapping[str, float], seed: int) -> None:
    """Draw a model's weights.

    ``spread`` goes by parts of parameters' names, as that of the text architectures. Its ``mirror`` is the size of the
    last norm's weights, whose signs become random: a head that is tied to the embeddings would else repeat its input.
    """
    import torch

    from_zero = {name for name, weight in model.named_parameters() if weight.ndim == 1 and weight.abs().sum() == 0}
    spread_weights(model, spread, seed)
    if "mirror" not in spread:
        return
    name, weight = _last_norm(model)
    with torch.no_grad():
        signs = torch.randint(0, 2, weight.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        weight.copy_(signs * spread["mirror"] - int(name in from_zero))


def _last_norm(model: Any) -> tuple[str, Any]:
    """The norm that no layer is the parent of, outside of the towers that see or hear."""
    names = [
        (name, weight)
        for name, weight in model.named_parameters()
        if re.search(_LAST_NORM, name) and not re.search(r"vision|visual|image|audio|layers\.|\bh\.|projector|vq", name)
    ]
    return names[-1]
