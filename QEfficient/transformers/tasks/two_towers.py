"""Models with a tower for texts and one for images, whose vectors meet in one space: CLIP, SigLIP and others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel

_SCORES, _VECTORS = "logits_per_image", "embeddings"


def has_two_towers(model: nn.Module) -> bool:
    """Whether ``model`` gives vectors of texts and of images, and its forward says how well they fit."""
    gives_vectors = all(hasattr(model, f"get_{kind}_features") for kind in ("text", "image"))
    return gives_vectors and any(hasattr(output, _SCORES) for output in _outputs(model))


def _outputs(model: nn.Module) -> Iterator[Any]:
    """The classes that the forward is declared to return."""
    declared = inspect.signature(model.forward).return_annotation
    yield from (each for each in (declared, *get_args(declared)) if isinstance(each, type))


def gives_token_vectors(model: nn.Module) -> bool:
    """Whether the output of ``model`` has a vector for each token, beside or in place of its states."""
    return any(hasattr(output, _VECTORS) for output in _outputs(model))


class TextTower(nn.Module):
    """What reads the texts of a model with two towers; ``pooler_output`` of its output has their vectors."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.config = model.config
        self.main_input_name = "input_ids"
        self.forward = model.get_text_features

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of tokens."""
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings


def text_reader(model: nn.Module) -> nn.Module:
    """The module that reads texts: ``model``, or its tower for them."""
    return TextTower(model) if has_two_towers(model) else model


def text_vectors(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    """The vectors ``[B, D]`` of texts in the space that images are in too.

    Raises:
        UnsupportedModel: the model has none.
    """
    vectors = getattr(model(**arguments), "pooler_output", None)
    if vectors is None or vectors.ndim != 2:
        raise UnsupportedModel(f"get_text_features() of {type(model).__name__} does not give one vector per text.")
    return vectors.float()
