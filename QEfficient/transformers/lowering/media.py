"""Features of images, videos and audio in a step: which of their rows a placeholder token stands for.

transformers' models take features as ``mm_encoder_outputs`` and put them at their placeholders with
``masked_scatter``, in order over the whole batch. A step has only some of a prompt's tokens, so here each placeholder
names its row.

Shape legend: B rows of this step, S tokens of this step, M sets of features, V feature rows of a set, D their width,
K layers that get features of their own (DeepStack).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.patches import functions_replaced, tensor_method_replaced

Nest = Any
"""The fields of an encoder's output: ``ROWS`` and ``LISTED`` where features are, numbers and lists around them."""
ROWS, LISTED = "rows", "listed"
"""A tensor with the features of all images, and a list with one tensor for each."""


@dataclass(frozen=True)
class FeatureForm:
    """How a model's ``get_*_features`` return features."""

    pooled: Nest
    """Of ``pooler_output``; None: it has none."""
    deepstack: tuple[Nest, ...] = ()
    """Of ``deepstack_features``: one entry for each layer of the language model that gets features of its own."""

    @classmethod
    def of(cls, output: Any) -> FeatureForm:
        """The form of an encoder's output."""
        layers = getattr(output, "deepstack_features", None) or ()
        return cls(_nest(output.pooler_output), tuple(_nest(layer) for layer in layers))

    def output(self, rows: torch.Tensor | None, deepstack: torch.Tensor | None) -> SimpleNamespace:
        """The output of an encoder with all rows ``[M * V, D]`` and ``deepstack [K, M * V, D]``."""
        layers = [] if deepstack is None else [_filled(form, deepstack[at]) for at, form in enumerate(self.deepstack)]
        return SimpleNamespace(
            pooler_output=None if rows is None else _filled(self.pooled, rows), deepstack_features=layers
        )


def _nest(value: Any) -> Nest:
    if isinstance(value, torch.Tensor):
        return ROWS
    if isinstance(value, list | tuple) and value:
        return LISTED if isinstance(value[0], torch.Tensor) else tuple(_nest(item) for item in value)
    return value


def _filled(form: Nest, rows: torch.Tensor) -> Any:
    if isinstance(form, tuple):
        return tuple(_filled(item, rows) for item in form)
    return {ROWS: rows, LISTED: [rows]}.get(form, form) if isinstance(form, str) else form


@dataclass(frozen=True)
class MediaTokens:
    """What stands for media in a prompt."""

    placeholders: tuple[tuple[str, int], ...]
    """Modalities, each with the token that stands for one row of its features."""
    forms: tuple[tuple[str, FeatureForm], ...]
    """Modalities, each with the form of its features."""
    token_types: tuple[str, ...] = ()
    """Arguments of the model's forward with a value a token, as the processor makes them."""
    num_positions: int = 0
    """Coordinates of a token, where rotary embeddings have several; 0: its position alone."""

    @property
    def num_deepstack(self) -> int:
        """Layers of the language model that get features of their own."""
        return max((len(form.deepstack) for _, form in self.forms), default=0)

    @property
    def has_pooled(self) -> bool:
        """Whether the language model's embeddings get features."""
        return any(form.pooled is not None for _, form in self.forms)

    def is_placeholder(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``[B, S]``, whether each token stands for a row of features."""
        is_any = torch.zeros_like(input_ids, dtype=torch.bool)
        for _, token in self.placeholders:
            is_any = is_any | (input_ids == token)
        return is_any


class StepMedia:
    """The features of one step.

    Args:
        tokens: what stands for them.
        input_ids: ``[B, S]``.
        rows: ``[M, V, D]``; a batch row reads those of its own set, or all read the only one. None: the model has no
            features for its embeddings.
        first_row: ``[1, 1]``, how many rows earlier steps used up: the step's placeholders stand for the rows from
            there on, in order. One beyond the last row stands for none.
        index: ``[B, S]``, the row of each token in its set, -1 for none; in place of ``first_row``.
        deepstack: ``[K, M, V, D]``.
        token_types: ``[B, S]`` each, arguments of the model's forward.
    """

    def __init__(
        self,
        tokens: MediaTokens,
        input_ids: torch.Tensor,
        rows: torch.Tensor | None,
        first_row: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        deepstack: torch.Tensor | None = None,
        token_types: Mapping[str, torch.Tensor] | None = None,
    ):
        self.tokens, self.token_types = tokens, dict(token_types or {})
        self.next_row: torch.Tensor | None = None
        self.rows = None if rows is None else rows.reshape(-1, rows.shape[2])
        self.deepstack = None if deepstack is None else deepstack.reshape(deepstack.shape[0], -1, deepstack.shape[3])
        (num_sets, set_len) = rows.shape[:2] if rows is not None else deepstack.shape[1:3]  # type: ignore[union-attr]
        if index is None:
            is_token = tokens.is_placeholder(input_ids)
            places = is_token.to(torch.int64).cumsum(1) - 1
            places = places if first_row is None else places + first_row
            self.next_row = places.max().reshape(1, 1) + 1
            index = torch.where(is_token & (places < set_len), places, -1)
        self.is_shown = (index >= 0)[..., None]
        sets = torch.arange(input_ids.shape[0], device=input_ids.device)[:, None] * set_len
        has_one_set = isinstance(num_sets, int) and num_sets == 1
        self._index = torch.where(index >= 0, index if has_one_set else index + sets, 0)

    def outputs(self) -> dict[str, SimpleNamespace]:
        """``mm_encoder_outputs`` of the model's forward."""
        rows, forms = self.rows, self.tokens.forms
        return {n: form.output(None if form.pooled is None else rows, self.deepstack) for n, form in forms}

    def scatter(self, embeddings: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """``embeddings [B, S, D]`` with each masked token's row of ``source`` in its place."""
        mask = mask if mask.ndim == 3 else mask[..., None]
        return torch.where(mask & self.is_shown, self._chosen(source).to(embeddings.dtype), embeddings)

    def add(self, hidden: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """``hidden [B, S, D]`` plus each masked token's row of ``source``."""
        return hidden + torch.where(mask[..., None] & self.is_shown, self._chosen(source).to(hidden.dtype), 0.0)

    def _chosen(self, source: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self._index, source.reshape(-1, source.shape[-1]))


def _unchecked(*args: object, **kwargs: object) -> None:
    """The host counts placeholders and rows; a step has a part of them."""


@contextmanager
def placing(model: nn.Module, media: StepMedia) -> Iterator[None]:
    """Let ``model``, a private copy, put the features of ``media`` at their tokens."""
    adders = [module for module in model.modules() if hasattr(module, "_deepstack_process")]
    for module in adders:
        setattr(module, "_deepstack_process", media.add)  # noqa: B010
    scatter = tensor_method_replaced("masked_scatter", media.scatter)
    try:
        with scatter, functions_replaced(model, {"torch_compilable_check": _unchecked}):
            yield
    finally:
        for module in adders:
            delattr(module, "_deepstack_process")
