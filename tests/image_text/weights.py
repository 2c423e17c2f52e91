"""Random weights over which answers depend on every token of the text and on every patch of the images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from architectures.tiny import spread_weights

_TIED = {"mirror": 3.0, "embeddings": 0.1}
"""Of a model whose head is tied to the embeddings."""
_LAST_NORM = r"(language_model|text_model|decoder|model)\.(norm|final_layer_?norm|embedding_norm|layer_norm)\.weight$"
_ELSEWHERE = r"vision|visual|resampler|encoder|vq|qformer"

_MIRRORED = {"flips": 0.5, "embeddings": 0.3, "att": 0.1}
_SHARP = {"att": 0.6}
_LOUD = {"mirror": 0.0, "flips": 0.5, "embeddings": 0.3, "att": 0.2}

SPREAD: dict[str, dict[str, float]] = {
    **dict.fromkeys(("blip", "florence2", "fuyu", "idefics", "vision-encoder-decoder"), _MIRRORED),
    **dict.fromkeys(("aya_vision", "cohere2_vision", "minicpm_ocr"), _SHARP),
    **{key: {"att": 1.0} for key in ("granite_docling", "minicpmv4_6", "minicpmv4_7")},
    **dict.fromkeys(("kosmos-2.5", "udop"), _LOUD),
    **{key: {"att": 0.6, "matrices": 0.15} for key in ("instructblip", "qwen3_5")},
    **{key: {"zeros": 0.5, "flips": 0.5, "att": 0.6} for key in ("shieldgemma2", "t5gemma2")},
    "gemma3": {"zeros": 0.5, "flips": 0.5},
    "inkling2": {"mirror": 3.0, "att": 0.6},
    "minimax_m3_vl": {"mirror": 3.0},
    "pp_formulanet": {"encoder_attn": 0.03, "embeddings": 1.0, "att": 0.6},
    "lfm2_vl": {"flips": 0.5},
    "exaone4_5": {"merger": 1.0},
    **{key: {"att": 0.3} for key in ("blip-2", "kosmos-2")},
}
"""Where the usual spread lets a model repeat tokens, or see little of an image, by model type."""


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


def rename(path: Path, prefix: str) -> None:
    """Take ``prefix`` off the names of the weights in a file."""
    from safetensors.torch import load_file, save_file

    named = {name.removeprefix(prefix): weight for name, weight in load_file(path).items()}
    save_file(named, path, metadata={"format": "pt"})


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
