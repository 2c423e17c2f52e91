"""Features of images, videos and audio in a step: which of their rows a placeholder token stands for.

transformers' models take features as ``mm_encoder_outputs`` and put them at their placeholders with
``masked_scatter``, in order over the whole batch. A step has only some of a prompt's tokens, so here each token names
its row, and the model gets a row for each token, of any values where a token stands for none: what it selects by a mask
of tokens are then all of them, whose number does not depend on data.

Shape legend: B rows of this step, S tokens of this step, M sets of features, V feature rows of a set, D their width,
K layers that get features besides (DeepStack).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.overrides import TorchFunctionMode

from QEfficient.processing.media import EMBEDS, Outputs, feature_rows, main_field
from QEfficient.transformers.patches import functions_replaced, tensor_method_replaced

Nest = Any
"""The fields of an encoder's output: :class:`Rows` where features are, numbers and lists around them."""


@dataclass(frozen=True)
class Rows:
    """Where features of all images are in an encoder's output."""

    num_axes: int
    """Of a tensor; those in front of the last two are images and their parts."""
    is_listed: bool
    """Whether there is a list of tensors, one for each image."""

    def filled(self, rows: torch.Tensor) -> Any:
        """The features ``rows [V, D]`` as if they were those of one image."""
        shaped = rows.reshape(*[1] * (self.num_axes - 2), *rows.shape)
        return [shaped] if self.is_listed else shaped


@dataclass(frozen=True)
class FeatureForm:
    """How a model's ``get_*_features`` return features."""

    pooled: Nest
    """Of ``field``; None: it has none."""
    deepstack: tuple[Nest, ...] = ()
    """Of ``deepstack_features``: one entry for each layer of the language model that gets features besides."""
    field: str = "pooler_output"
    """Where features for the embeddings are."""
    width: int = 0
    """Of a row of features."""
    others: tuple[str, ...] = ()
    """Fields that a step does not have."""
    same: tuple[str, ...] = ()
    """Fields that hold the features of ``field`` too."""

    @classmethod
    def of(cls, output: Outputs) -> FeatureForm:
        """The form of an encoder's output."""
        layers, name = getattr(output, "deepstack_features", None) or (), main_field(output)
        names = [item.name for item in fields(output)] if is_dataclass(output) else []
        others = tuple(each for each in names if each not in (name, "deepstack_features"))
        same = tuple(each for each in others if getattr(output, each) is getattr(output, name) is not None)
        rows, by_layer = feature_rows(output)
        width = (by_layer[0] if rows is None else rows).shape[-1]
        return cls(_nest(getattr(output, name)), tuple(_nest(layer) for layer in layers), name, width, others, same)

    def output(self, rows: torch.Tensor | None, deepstack: torch.Tensor | None) -> SimpleNamespace:
        """The output of an encoder with all rows ``[V, D]`` and ``deepstack [K, V, D]``."""
        layers = [] if deepstack is None else [_filled(form, deepstack[at]) for at, form in enumerate(self.deepstack)]
        pooled = None if rows is None else _filled(self.pooled, rows)
        values = {**dict.fromkeys(self.others), **dict.fromkeys((self.field, *self.same), pooled)}
        values["deepstack_features"] = layers
        return SimpleNamespace(**values)

    def added(self, rows: torch.Tensor) -> SimpleNamespace:
        """The output of an encoder whose features ``rows [B, S, D]`` are added to all tokens of a step."""
        return SimpleNamespace(**dict.fromkeys(self.others), **dict.fromkeys((self.field, *self.same), rows))


def _nest(value: Any) -> Nest:
    if isinstance(value, torch.Tensor):
        return Rows(value.ndim, is_listed=False)
    if isinstance(value, list | tuple) and value:
        is_rows = isinstance(value[0], torch.Tensor)
        return Rows(value[0].ndim, is_listed=True) if is_rows else tuple(_nest(item) for item in value)
    return value


def _filled(form: Nest, rows: torch.Tensor) -> Any:
    if isinstance(form, tuple):
        return tuple(_filled(item, rows) for item in form)
    return form.filled(rows) if isinstance(form, Rows) else form


@dataclass(frozen=True)
class MediaTokens:
    """What stands for media in a prompt."""

    placeholders: tuple[tuple[str, int], ...]
    """Modalities, each with the token that stands for one row of its features."""
    forms: tuple[tuple[str, FeatureForm], ...]
    """Modalities, each with the form of its features."""
    token_types: tuple[str, ...] = ()
    """Arguments of the model's forward with one value per token, as the processor makes them."""
    num_positions: int = 0
    """Coordinates of a token, where rotary embeddings have several; 0: its position alone."""
    asked: tuple[tuple[str, str], ...] = ()
    """Modalities whose features the model's forward asks ``get_*_features`` for, each with the argument that it does so
    for; it takes the others' as ``mm_encoder_outputs``."""
    mask: str = ""
    """The token type that is 1 for placeholders, where these may be any tokens."""
    is_added: bool = False
    """Whether every token, new ones too, has a row of features, which is added to its embedding."""
    constants: tuple[tuple[str, float], ...] = ()
    """Arguments of the model's forward that are numbers, as the processor makes them."""

    @property
    def num_deepstack(self) -> int:
        """Layers of the language model that get features besides."""
        return max((len(form.deepstack) for _, form in self.forms), default=0)

    @property
    def width(self) -> int:
        """Of a row of features."""
        return max((form.width for _, form in self.forms), default=0)

    @property
    def has_pooled(self) -> bool:
        """Whether the language model's embeddings get features."""
        return any(form.pooled is not None for _, form in self.forms)

    def is_placeholder(self, input_ids: torch.Tensor, token_types: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """``[B, S]``, whether each token stands for a row of features."""
        if self.is_added:
            return torch.ones_like(input_ids, dtype=torch.bool)
        if self.mask:
            return token_types[self.mask] == 1
        is_any = torch.zeros_like(input_ids, dtype=torch.bool)
        for _, token in self.placeholders:
            is_any = is_any | (input_ids == token)
        return is_any


class StepMedia:
    """The features of one step.

    Args:
        tokens: what stands for them.
        input_ids: ``[B, S]``.
        rows: ``[M, V, D]``; a batch row reads those of its set, or all read the only one. None: the model has no
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
        # Equal, but a trace does not know that of inputs.
        self._sizes = [tuple(each.shape) for each in (input_ids, *self.token_types.values())]
        self.next_row: torch.Tensor | None = None
        (num_sets, set_len) = rows.shape[:2] if rows is not None else deepstack.shape[1:3]  # type: ignore[union-attr]
        if index is None:
            is_token = tokens.is_placeholder(input_ids, self.token_types)
            places = is_token.to(torch.int64).cumsum(1) - 1
            places = places if first_row is None else places + first_row
            self.next_row = places.max().reshape(1, 1) + 1
            index = torch.where(is_token & (places < set_len), places, -1)
        self.is_shown = (index >= 0)[..., None]
        sets = torch.arange(input_ids.shape[0], device=input_ids.device)[:, None] * set_len
        has_one_set = isinstance(num_sets, int) and num_sets == 1
        index = torch.where(index >= 0, index if has_one_set else index + sets, 0).reshape(-1)
        self.rows = None if rows is None else nn.functional.embedding(index, rows.reshape(-1, rows.shape[-1]))
        by_layer = [] if deepstack is None else deepstack.reshape(deepstack.shape[0], -1, deepstack.shape[-1]).unbind()
        self.deepstack = (
            torch.stack([nn.functional.embedding(index, layer) for layer in by_layer]) if by_layer else None
        )

    def outputs(self) -> dict[str, SimpleNamespace]:
        """What ``get_*_features`` give, by modality, with a row for each token."""
        rows, forms = self.rows, self.tokens.forms
        if self.tokens.is_added:
            added = self.added_rows()
            return {name: form.added(added) for name, form in forms}
        return {n: form.output(None if form.pooled is None else rows, self.deepstack) for n, form in forms}

    def added_rows(self) -> torch.Tensor:
        """``[B, S, D]``, the row of each token; zeros where there is none."""
        assert self.rows is not None
        return torch.where(self.is_shown, self.rows.reshape(*self._sizes[0], -1), 0.0)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the model's forward: features, token types and constants."""
        constants = dict(self.tokens.constants)
        if self.tokens.mask:
            return {EMBEDS: self.rows, **self.token_types, **constants}
        asked = dict(self.tokens.asked)
        others = {modality: output for modality, output in self.outputs().items() if modality not in asked}
        stand_ins = {name: torch.zeros(1, 1, 1) for name in asked.values()}
        if self.tokens.is_added:
            return {**stand_ins, **self.token_types, **constants}
        return {**({"mm_encoder_outputs": others} if others else {}), **stand_ins, **self.token_types, **constants}

    def scatter(self, embeddings: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """``embeddings [B, S, D]`` with each masked token's row of ``source`` in its place."""
        mask = mask if mask.ndim == 3 else mask[..., None]
        return torch.where(mask & self.is_shown, source.reshape(embeddings.shape).to(embeddings.dtype), embeddings)

    def assign(self, tensor: torch.Tensor, key: torch.Tensor, value: torch.Tensor | float) -> None:
        """``tensor[key] = value``; where ``key`` is a mask of tokens, a tensor of rows has one for each of them all."""
        if isinstance(value, torch.Tensor) and value.ndim > 1 and self._is_of_tokens(key, tensor):
            tensor.copy_(self.scatter(tensor, key, value))
        else:
            tensor[key] = value

    def add(self, hidden: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """``hidden [B, S, D]`` plus each masked token's row of ``source``."""
        mask = mask if mask.ndim == 3 else mask[..., None]
        return hidden + torch.where(mask & self.is_shown, source.reshape(hidden.shape).to(hidden.dtype), 0.0)

    def select(self, tensor: torch.Tensor, key: torch.Tensor | int) -> torch.Tensor:
        """``tensor[key]``; where ``key`` is a mask of tokens, what it selects of all of them."""
        return tensor.reshape(-1, *tensor.shape[key.ndim :]) if self._is_of_tokens(key, tensor) else tensor[key]

    def _is_of_tokens(self, key: object, tensor: torch.Tensor) -> TypeGuard[torch.Tensor]:
        if not (isinstance(key, torch.Tensor) and key.dtype == torch.bool and 2 <= key.ndim <= tensor.ndim):
            return False
        are_tokens = all(any(_are_equal(each.shape[:2], sizes) for sizes in self._sizes) for each in (key, tensor))
        return are_tokens and _are_equal(key.shape[2:], tensor.shape[2 : key.ndim])


def _are_equal(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    return all(statically_known_true(ours == theirs) for ours, theirs in zip(sizes, others, strict=True))


class _Selecting(TorchFunctionMode):
    """Calls :meth:`StepMedia.select` where a tensor is indexed, and :meth:`StepMedia.assign` where a part is set."""

    def __init__(self, media: StepMedia):
        super().__init__()
        self._functions = {torch.Tensor.__getitem__: media.select, torch.Tensor.__setitem__: media.assign}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._functions.get(func, func)(*args, **(kwargs or {}))


def _unchecked(*args: object, **kwargs: object) -> None:
    """The host counts placeholders and rows; a step has a part of them."""


@contextmanager
def _embeddings_with_rows(model: Any, media: StepMedia) -> Iterator[None]:
    """Add the rows of ``media`` to the embeddings of ``model``, where its forward asks for none."""
    if not media.tokens.is_added or media.tokens.asked:
        yield
        return
    handle = model.get_input_embeddings().register_forward_hook(lambda *call: call[-1] + media.added_rows())
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def placing(model: nn.Module, media: StepMedia) -> Iterator[None]:
    """Let ``model``, a private copy, put the features of ``media`` at their tokens."""
    outputs = media.outputs()
    methods: list[tuple[nn.Module, str, Any]] = [
        (module, "_deepstack_process", media.add) for module in model.modules() if hasattr(module, "_deepstack_process")
    ]
    methods += [
        (model.base_model, f"get_{modality}_features", lambda *_, output=outputs[modality], **__: output)
        for modality, _ in media.tokens.asked
    ]
    for module, name, function in methods:
        setattr(module, name, function)
    scatter = tensor_method_replaced("masked_scatter", media.scatter)
    try:
        with (
            _embeddings_with_rows(model, media),
            scatter,
            _Selecting(media),
            functions_replaced(model, {"torch_compilable_check": _unchecked}),
        ):
            yield
    finally:
        for module, name, _ in methods:
            delattr(module, name)
