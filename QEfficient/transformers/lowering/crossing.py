"""Images that a language model attends to in cross-attention layers, beside its tokens.

Such a layer keeps keys and values of the images' states as the decoder of an encoder-decoder does of its input: they
are stored in the step that begins a prompt, and later steps only read them.

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
from transformers.cache_utils import DynamicCache

from QEfficient.processing.media import CROSS_MASK, CROSS_STATES
from QEfficient.transformers.lowering.apply import run_eagerly
from QEfficient.transformers.lowering.cache_spec import ROWS, StateSpec, StateTensor
from QEfficient.transformers.lowering.infer_cache_spec import accepted, refusing, state_specs
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

    @classmethod
    def of(cls, tokens: MediaTokens, tile_shape: Sequence[int]) -> CrossMedia:
        """``tokens``, whose images have ``(tiles, states of a tile)``."""
        shared = {item.name: getattr(tokens, item.name) for item in fields(tokens)}
        return cls(**shared, num_tiles=tile_shape[0], tile_len=tile_shape[1])

    @property
    def num_parts(self) -> int:
        """Tiles of all images of a prompt."""
        return self.num_images * self.num_tiles

    @property
    def num_slots(self) -> int:
        """States of all images of a prompt."""
        return self.num_parts * self.tile_len


def media_specs(model: nn.Module, media: MediaTokens | None) -> list[StateSpec]:
    """:func:`state_specs` of ``model``, with those of layers that attend to images alone."""
    specs = state_specs(model)
    return specs if not isinstance(media, CrossMedia) else _crossing_specs(model, media, tuple(specs))


@remembered
def _crossing_specs(model: nn.Module, media: CrossMedia, specs: tuple[StateSpec, ...]) -> list[StateSpec]:
    lowered = run_eagerly(model)
    cache = DynamicCache(config=lowered.module.config)
    with refusing(lowered.module), lowered.fake_mode, torch.no_grad():
        inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "position_ids": torch.arange(2)[None]}
        states = {CROSS_STATES: torch.zeros(1, media.num_slots, media.width)}
        masks = {CROSS_MASK: torch.ones(1, 2, 1, media.num_parts, dtype=torch.int64)}
        passed = accepted(lowered.module, inputs | states | masks)
        lowered.module(**passed, past_key_values=cache, use_cache=True)
    layers = zip(specs, cache.layers, strict=True)
    return [spec if spec.kind != "none" else _cross_spec(spec, layer, media.num_slots) for spec, layer in layers]


def _cross_spec(spec: StateSpec, layer: Any, num_slots: int) -> StateSpec:
    if getattr(layer, "keys", None) is None:
        return spec
    tensors = (("past_key_cross", layer.keys), ("past_value_cross", layer.values))
    shapes = ((name, (ROWS, state.shape[1], num_slots, state.shape[3])) for name, state in tensors)
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
        self.states, self.seen = states, seen
        places = torch.arange(states.shape[1])[None]
        is_stored = (step.first_position == 0) & (places < lens)
        self.step = RetainedStep(torch.where(is_stored, places, -1), step.batch_index)
        is_empty = torch.arange(media.num_slots)[None] >= lens
        self._empty = torch.where(is_empty, MASKED, 0.0)[:, None, None]
        self._has_any = (lens > 0).to(torch.float32)[..., None]

    def arguments(self) -> dict[str, torch.Tensor]:
        """Of the model's forward."""
        # As floats: torch.onnx cannot export the difference of a float and integers, which transformers takes.
        return {CROSS_STATES: self.states, CROSS_MASK: self.seen[:, :, None].float()}

    @contextmanager
    def attended(self, model: nn.Module) -> Iterator[None]:
        """Let layers of ``model``, a private copy, see no slot that is empty, and nothing in rows without images: there
        transformers leaves the layers out."""
        with ExitStack() as hooks:
            for module in _attentions(model):
                hooks.enter_context(module.register_forward_pre_hook(self._hide, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(self._drop))
            yield

    def _hide(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": torch.minimum(kwargs["attention_mask"], self._empty)}

    def _drop(self, module: nn.Module, args: Any, output: Any) -> Any:
        attended, *rest = output
        return (attended * self._has_any, *rest)


def _attentions(model: nn.Module) -> list[nn.Module]:
    """The modules that attend to states of images."""
    parameters = {module: inspect.signature(module.forward).parameters for module in model.modules()}
    return [module for module, names in parameters.items() if CROSS_STATES in names and CROSS_MASK not in names]
