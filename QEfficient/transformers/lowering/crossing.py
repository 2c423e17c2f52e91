"""Images that a language model attends to in cross-attention layers, beside its tokens.

Such a layer keeps keys and values of the images' states as the decoder of an encoder-decoder does of its input: they
are stored in the step that begins a prompt, and later steps only read them. Where transformers' cache does not have
them (Idefics), the states themselves are kept.

Shape legend: B rows of this step, S tokens of this step, V states that the step brings, D their width, C slots of a
row, N parts (tiles) of all images of a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from QEfficient.processing.media import cross_arguments
from QEfficient.transformers.lowering.cache_layers import RetainedCache, RetainedStates
from QEfficient.transformers.lowering.cache_spec import ROWS, StateSpec, StateTensor
from QEfficient.transformers.lowering.infer_cache_spec import refusing, specs_by_running, state_specs
from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.media import MediaTokens
from QEfficient.transformers.lowering.representative_layers import remembered
from QEfficient.transformers.lowering.step import RetainedStep


@dataclass(frozen=True)
class CrossMedia(MediaTokens):
    """Images that do not take the place of tokens."""

    num_images: int = 1
    """Of a prompt, at most."""
    num_tiles: int = 1
    """Of an image; each is seen by a token or is not."""
    tile_len: int = 1
    """States of a tile."""
    arguments: tuple[str, str] = ("", "")
    """Of the model's forward: the states, and the tiles that each token sees."""

    @classmethod
    def of(cls, tokens: MediaTokens, model: nn.Module, tile_shape: Sequence[int]) -> CrossMedia:
        """``tokens`` of ``model``, whose images have ``(tiles, states of a tile)``."""
        shared = {item.name: getattr(tokens, item.name) for item in fields(tokens)}
        arguments = cross_arguments(model)
        assert arguments is not None
        return cls(**shared, num_tiles=tile_shape[0], tile_len=tile_shape[1], arguments=arguments)

    def passed(self, states: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        """Arguments of the model's forward.

        Args:
            states: ``[B, V, D]``.
            seen: ``[B, S, N]``.
        """
        names = dict(zip(("states", "mask"), self.arguments, strict=True))
        if names["states"].endswith("_embeddings"):  # of each image apart
            states, seen = states.reshape(states.shape[0], -1, self.tile_len, states.shape[2]), seen.to(torch.int64)
            return {names["states"]: states, names["mask"]: seen}
        # As floats: torch.onnx cannot export the difference of a float and integers, which transformers takes.
        return {names["states"]: states, names["mask"]: seen[:, :, None].float()}

    @property
    def num_parts(self) -> int:
        """Tiles of all images of a prompt."""
        return self.num_images * self.num_tiles

    @property
    def num_slots(self) -> int:
        """States of all images of a prompt."""
        return self.num_parts * self.tile_len


IMAGE_STATES = "image_states"


def media_specs(model: nn.Module, media: MediaTokens | None) -> list[StateSpec]:
    """:func:`state_specs` of ``model``, with those of layers that attend to images alone."""
    if isinstance(media, CrossMedia):
        return list(_crossing_specs(model, media))
    return list(_added_specs(model, media)) if media is not None and media.is_added else state_specs(model)


@remembered
def _added_specs(model: nn.Module, media: MediaTokens) -> list[StateSpec]:
    """With features, where the model runs over no token without."""
    with refusing(model):
        return specs_by_running(model, media=media)[0]


@remembered
def _crossing_specs(model: nn.Module, media: CrossMedia) -> list[StateSpec]:
    """With images, where layers without them keep nothing: those of the layers, or one more for all of them."""
    states, seen = torch.zeros(1, media.num_slots, media.width), torch.ones(1, 2, media.num_parts, dtype=torch.int64)
    with refusing(model):
        specs, layers = specs_by_running(model, media.passed(states, seen))
    pairs = zip(specs, layers, strict=True)
    specs = [_cross_spec(spec, layer) if _num_keys(layer) == media.num_slots else spec for spec, layer in pairs]
    if any(spec.kind == "cross" for spec in specs):
        return specs
    kept = StateTensor(IMAGE_STATES, (ROWS, media.num_slots, media.width))
    return [*specs, StateSpec(kind="images", tensors=(kept,))]


def _num_keys(layer: Any) -> int:
    return 0 if getattr(layer, "keys", None) is None else int(layer.keys.shape[2])


def _cross_spec(spec: StateSpec, layer: Any) -> StateSpec:
    tensors = (("past_key_cross", layer.keys), ("past_value_cross", layer.values))
    shapes = ((name, (ROWS, *state.shape[1:])) for name, state in tensors)
    return replace(spec, kind="cross", tensors=tuple(StateTensor(name, shape) for name, shape in shapes))


class StepImages:
    """The images of one step.

    Args:
        media: what they are like.
        step: the tokens' places.
        states: ``[B, V, D]``; read in rows that begin with this step.
        seen: int64 ``[B, S, N]``, the tiles that each token attends to.
        lens: ``[B, 1]``, states of each row's images, in every step.
    """

    next_row: None = None

    def __init__(
        self, media: CrossMedia, step: RetainedStep, states: torch.Tensor, seen: torch.Tensor, lens: torch.Tensor
    ):
        self.media, self.states, self.seen = media, states, seen
        places = torch.arange(states.shape[1])[None]
        is_stored = (step.first_position == 0) & (places < lens)
        self.step = RetainedStep(torch.where(is_stored, places, -1), step.batch_index)
        is_empty = torch.arange(media.num_slots)[None] >= lens
        self._empty = torch.where(is_empty, MASKED, 0.0)[:, None, None]
        self._has_any = (lens > 0).to(torch.float32)[..., None]

    def arguments(self, cache: RetainedCache) -> dict[str, torch.Tensor]:
        """Of the model's forward."""
        last = cache.layers[-1]
        states = last.update_states(self.states) if isinstance(last, RetainedStates) else self.states
        return self.media.passed(states, self.seen)

    @contextmanager
    def attended(self, model: nn.Module) -> Iterator[None]:
        """Let layers of ``model``, a private copy, see no slot that is empty, and nothing in rows without images: there
        transformers leaves the layers out."""
        with ExitStack() as hooks:
            for module in _attentions(model, *self.media.arguments):
                hooks.enter_context(module.register_forward_pre_hook(self._hide, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(self._drop))
            yield

    def _hide(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": torch.minimum(kwargs["attention_mask"], self._empty)}

    def _drop(self, module: nn.Module, args: Any, output: Any) -> Any:
        attended, *rest = output
        return (attended * self._has_any, *rest)


def _attentions(model: nn.Module, states: str, mask: str) -> list[nn.Module]:
    """The modules that attend to states of images."""
    parameters = {module: inspect.signature(module.forward).parameters for module in model.modules()}
    return [module for module, names in parameters.items() if states in names and mask not in names]
