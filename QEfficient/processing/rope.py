"""Coordinates of tokens, where rotary embeddings have several: transformers' code, which needs no weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rope_index(model: PreTrainedModel, batch: Mapping[str, Any]) -> torch.Tensor | None:
    """Coordinates ``[P, B, S]`` of a batch's tokens; None for a model whose tokens have none."""
    method = getattr(model.base_model, "get_rope_index", None)
    if method is None:
        return None
    inputs = {name: batch[name] for name in inspect.signature(method).parameters if batch.get(name) is not None}
    coordinates: torch.Tensor = method(**inputs)[0]
    return coordinates
