"""Selects layers that represent all: a model has many layers of few kinds, so inspecting the first layer of each kind
in one weightless step is enough."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers.cache_utils import get_layer_types_and_kwargs

from QEfficient.errors import UnsupportedModel

logger = logging.getLogger(__name__)

FAILURES = (
    *(UnsupportedModel, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    ArithmeticError,
)
"""Errors that model code may raise where layers that it relies on are missing; the whole model runs then."""

_MIN_LAYERS = 2
_COUNTS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
_NUMBER = re.compile("layer|idx|index|number")


def remembered(function: Callable[..., Any]) -> Any:
    """Cache the results of ``function`` per model, for the model's lifetime; its config must not change."""
    answers: WeakKeyDictionary[nn.Module, dict[Hashable, Any]] = WeakKeyDictionary()

    @wraps(function)
    def ask(model: nn.Module, *args: Hashable) -> Any:
        known = answers.setdefault(model, {})
        if args not in known:
            known[args] = function(model, *args)
        return known[args]

    return ask


@dataclass(frozen=True)
class FirstLayers:
    """A model cut to its first layers, which include every kind of layer."""

    module: nn.Module
    """Shares its parameters with the whole model."""
    stands_for: tuple[int, ...]
    """Index of the first layer of the same kind, for each layer of the whole model."""

    def is_dummy(self, index: int) -> bool:
        """Whether the type of a layer says that it has no state."""
        return bool(get_layer_types_and_kwargs(_decoder_config(self.module))[0][index] == "dummy")


@remembered
def first_layers(model: nn.Module) -> FirstLayers | None:
    """The shortest prefix of ``model`` with layers of every kind; None if no layer can be omitted.

    That is so where layers share keys and values, and where no list of layers is recognized.
    """
    config = _decoder_config(model)
    num_layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(num_layers, int) or _shares_state(config):
        return None
    lists = list(_layer_lists(model, num_layers))
    decoder = model.get_decoder() if model.config.is_encoder_decoder else model
    if not any(module is layers for module in decoder.modules() for layers in lists):
        return None
    kinds = _kinds(config, lists, num_layers)
    if len(kinds) != num_layers:
        return None
    stands_for = tuple(kinds.index(kind) for kind in kinds)
    num_kept = max(_MIN_LAYERS, max(stands_for, default=0) + 1)
    if num_kept >= num_layers:
        return None
    try:
        return FirstLayers(_without_rest(model, lists, num_layers, num_kept), stands_for)
    except FAILURES as error:  # some configs reject changes
        logger.debug("%s is run with all of its layers: %s", type(model).__name__, error)
        return None


def _decoder_config(model: Any) -> Any:
    config = getattr(model.get_decoder(), "config", model.config) if model.config.is_encoder_decoder else model.config
    return config.get_text_config(decoder=True)


def _shares_state(config: Any) -> bool:
    return bool(getattr(config, "kv_sharing_modes", None) or getattr(config, "num_kv_shared_layers", None))


def _layer_lists(module: nn.Module, num_layers: int) -> Iterator[nn.ModuleList]:
    """Lists with one entry per layer; lists inside a layer are skipped."""
    for child in module.children():
        if type(child) is nn.ModuleList and len(child) == num_layers:
            yield child
        else:
            yield from _layer_lists(child, num_layers)


def _kinds(config: Any, lists: list[nn.ModuleList], num_layers: int) -> list[Hashable]:
    """A key for each layer, equal for layers of the same kind."""
    layer_types, kwargs = get_layer_types_and_kwargs(config)
    windows = [extra.get("sliding_window") for extra in kwargs]
    entries = list(_entries(config, num_layers))
    numbers = [value for name, value in sorted(vars(config).items()) if "layer" in name and _is_numbers(value)]
    return [
        (
            *(layer_types[index], windows[index]),
            tuple(repr(value[index]) for value in entries),
            tuple(index in value for value in numbers),
            tuple(_structure(layers[index], index) for layers in lists),
        )
        for index in range(min(num_layers, len(layer_types)))
    ]


def _entries(config: Any, num_layers: int) -> Iterator[Any]:
    for _, value in sorted(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == num_layers:
            yield value


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, int) for item in value)


def _structure(module: nn.Module, index: int) -> Hashable:
    """Classes, shapes and plain attributes of a layer's modules."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return (
        tuple((name, type(part), _attributes(part, index)) for name, part in module.named_modules()),
        tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors),
    )


def _attributes(module: nn.Module, index: int) -> Hashable:
    attributes: list[tuple[str, Hashable]] = []
    for name, value in vars(module).items():
        if isinstance(value, int) and value == index and _NUMBER.search(name):
            attributes.append((name, "its number"))
        elif value is None or isinstance(value, int | float | str):
            attributes.append((name, value))
        elif callable(value) and not isinstance(value, nn.Module):
            attributes.append((name, getattr(value, "__qualname__", type(value).__qualname__)))
    return tuple(attributes)


def _without_rest(model: Any, lists: list[nn.ModuleList], num_layers: int, num_kept: int) -> nn.Module:
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for layers in lists:
        memo[id(layers)] = nn.ModuleList(copy.deepcopy(list(layers)[:num_kept], memo))
    kept: Any = copy.deepcopy(model, memo)
    config_class = type(_decoder_config(model))
    for config in _configs(kept):
        if type(config) is config_class:
            _shorten(config, num_layers, num_kept)
    return kept


def _shorten(config: Any, num_layers: int, num_kept: int) -> None:
    for name in _COUNTS:
        if getattr(config, name, None) == num_layers:
            if not _is_worked_out(config, "layer_types") and getattr(config, "layer_types", None) is not None:
                config.layer_types = config.layer_types[:num_kept]
            setattr(config, name, num_kept)


def _is_worked_out(config: Any, name: str) -> bool:
    """Whether a config computes an entry from others, so that it cannot be set."""
    return isinstance(getattr(type(config), config.attribute_map.get(name, name), None), property)


def _configs(model: Any) -> list[Any]:
    configs = [model.config, _decoder_config(model)]
    configs += [module.config for module in model.modules() if getattr(module, "config", None) is not None]
    return list({id(config): config for config in configs}.values())
