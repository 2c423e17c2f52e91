"""Coordinates of tokens, where rotary embeddings have several: transformers' code, which needs no weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = "mm_token_type_ids"


def index_method(model: PreTrainedModel) -> Callable[..., Any] | None:
    """The method that gives coordinates of tokens; None for a model whose tokens have none."""
    method: Callable[..., Any] | None = getattr(model.base_model, "get_rope_index", None)
    return method


def rope_index(model: PreTrainedModel, batch: Mapping[str, Any]) -> torch.Tensor | None:
    """Coordinates ``[P, B, S]`` of a batch's tokens; None for a model whose tokens have none."""
    method = index_method(model)
    if method is None:
        return None
    names = inspect.signature(method).parameters
    inputs = {name: batch[name] for name in names if batch.get(name) is not None}
    if _TYPES in names and _TYPES not in inputs:
        inputs[_TYPES] = _token_types(model.config, batch["input_ids"])
    coordinates: torch.Tensor = method(**inputs)[0]
    return coordinates


def _token_types(config: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """0 for text, 1 for images, 2 for videos: what some processors give on request alone."""
    types = torch.zeros_like(input_ids)
    for value, name in enumerate(("image_token_id", "video_token_id"), start=1):
        types = torch.where(input_ids == getattr(config, name, -1), value, types)
    return types
