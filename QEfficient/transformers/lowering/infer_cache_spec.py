"""Measures the state of each layer between steps, by running the model once without weights."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    EncoderDecoderCache,
    get_layer_types_and_kwargs,
)

from QEfficient.errors import CorruptCheckpoint, QEffError, UnsupportedModel
from QEfficient.processing.media import features_of_forward
from QEfficient.transformers.lowering.apply import LoweredModel, run_eagerly
from QEfficient.transformers.lowering.cache_spec import (
    CTX_LEN,
    ENCODER_CTX_LEN,
    INDEXER_KEY,
    INDEXER_POSITION,
    KINDS,
    NUM_DIGITS,
    ROWS,
    WINDOW,
    StateSpec,
    StateTensor,
)
from QEfficient.transformers.lowering.encoder_states import EncoderStates, decoder_attends, decoder_of
from QEfficient.transformers.lowering.media import MediaTokens, StepMedia, placing
from QEfficient.transformers.lowering.recompute import TOKENS
from QEfficient.transformers.lowering.representative_layers import FAILURES, FirstLayers, first_layers, remembered
from QEfficient.transformers.quirks import recomputed

logger = logging.getLogger(__name__)


def state_specs(model: nn.Module) -> list[StateSpec]:
    """State of each layer of ``model``, measured with two tokens on a weightless copy; one spec of kind "tokens" for a
    model without state.

    Raises:
        UnsupportedModel: no lowering supports the state of some layer yet.
    """
    return list(_state_specs(model))


@remembered
def _state_specs(model: nn.Module) -> list[StateSpec]:
    if recomputed(model) is not None:
        return [TOKENS]
    first = first_layers(model)
    if first is not None:
        try:
            return _of_all_layers(first)
        except FAILURES as error:
            logger.debug("%s is run with all of its layers: %s", type(model).__name__, error)
    with refusing(model):
        return specs_by_running(model)[0]


def _of_all_layers(first: FirstLayers) -> list[StateSpec]:
    """State of all layers, from that of the first layer of each kind.

    Raises:
        UnsupportedModel: one of them has no state, possibly because a later layer is missing.
    """
    specs = state_specs(first.module)
    if specs == [TOKENS] or any(spec.kind == "none" and not first.is_dummy(i) for i, spec in enumerate(specs)):
        raise UnsupportedModel(f"{type(first.module).__name__} has layers that keep nothing.")
    return _located_once([specs[index] for index in first.stands_for])


def _located_once(specs: list[StateSpec]) -> list[StateSpec]:
    """``specs`` with coordinates in the first layer alone that has any: they are those of all layers."""
    located = [index for index, spec in enumerate(specs) if any(part.name == INDEXER_POSITION for part in spec.tensors)]
    for index in located[1:]:
        kept = tuple(part for part in specs[index].tensors if part.name != INDEXER_POSITION)
        specs[index] = replace(specs[index], tensors=kept)
    return specs


def specs_by_running(
    model: nn.Module, inputs: Mapping[str, torch.Tensor] | None = None, media: MediaTokens | None = None
) -> tuple[list[StateSpec], list[Any]]:
    """As :func:`state_specs`, with all layers of ``model``, and with ``inputs`` beside two tokens.

    Args:
        model: a Hugging Face model.
        inputs: of its forward.
        media: of which each of the tokens gets a row.

    Returns:
        The states, and the layers of transformers' cache that they were measured on.
    """
    lowered = run_eagerly(model)
    layer_types, kwargs = get_layer_types_and_kwargs(lowered.module.config.get_text_config(decoder=True))
    for index, layer_type in enumerate(layer_types):
        if layer_type not in KINDS:
            raise UnsupportedModel(
                f"Layer {index} of {type(model).__name__} keeps '{layer_type}' state, which no lowering holds yet; "
                f"supported: {', '.join(KINDS)}. See 'Adding a state kind' in the documentation."
            )
    windows = [_window(extra) for extra in kwargs]
    sizes = {window for window in windows if window is not None}
    layers = _run_once(lowered, inputs or {}, media).layers
    specs = [
        StateSpec(
            kind=KINDS[layer_type] if (tensors := _tensors(layer, _ring_axis(window, sizes))) else "none",
            tensors=tensors,
            window=window if tensors else None,
            block_len=getattr(layer, "compress_rate", None),
        )
        for layer_type, window, layer in zip(layer_types, windows, layers, strict=True)
    ]
    return specs if any(spec.tensors for spec in specs) else [TOKENS], layers


def depends_on_length(model: nn.Module, specs: Sequence[StateSpec]) -> bool:
    """Whether a graph of ``model``, whose layers keep ``specs``, is valid for one context length only."""
    config = model.config.get_text_config(decoder=True)
    if (quirk := recomputed(model)) is not None:
        return quirk.has_fixed_len
    # Doge attends to its best keys only, once there are more keys than this.
    has_limit = getattr(config, "keep_window_size", None) is not None
    return has_limit or any(spec.depends_on_length for spec in specs)


def _window(extra: dict[str, Any]) -> int | None:
    """Sliding window in the arguments from which transformers builds a cache layer."""
    window: int | None = extra["config"].sliding_window if "config" in extra else extra.get("sliding_window")
    if window is not None and window < 1:
        raise CorruptCheckpoint(f"The config's sliding window is {window}, expected a positive number of tokens.")
    return window


def _ring_axis(window: int | None, sizes: set[int]) -> str | None:
    if window is None:
        return None
    return WINDOW if len(sizes) == 1 else f"{WINDOW}_{window}"


def _tensors(layer: Any, ring_axis: str | None) -> tuple[StateTensor, ...]:
    """State tensors in a layer of transformers' cache after a step."""
    tensors: list[StateTensor] = []
    slots = ring_axis or CTX_LEN
    if isinstance(layer, CacheLayerMixin) and layer.keys is not None:
        both = {"past_key": layer.keys} | ({} if layer.values is layer.keys else {"past_value": layer.values})
        for name, state in both.items():
            if state.shape[3]:
                tensors.append(StateTensor(name, (ROWS, state.shape[1], slots, state.shape[3])))
    for part in ("kv", "gate"):
        for name, state in getattr(layer, f"buffer_{part}", {}).items():
            tensors.append(StateTensor(f"{name}_{part}", (ROWS, CTX_LEN, state.shape[2])))
    if getattr(layer, "indexer_keys", None) is not None:
        tensors.append(StateTensor(INDEXER_KEY, (ROWS, slots, layer.indexer_keys.shape[2])))
    if (positions := getattr(layer, "indexer_position_ids", None)) is not None:
        tensors.append(StateTensor(INDEXER_POSITION, (ROWS, slots, NUM_DIGITS * positions.shape[0])))
    for name, attribute in (("conv_state", "conv_states"), ("recurrent_state", "recurrent_states")):
        for number, state in getattr(layer, attribute, {}).items():
            if state is not None:
                tensors.append(StateTensor(name if number == 0 else f"{name}_{number}", (ROWS, *state.shape[1:])))
    return tuple(tensors)


_NOT_PASSED = re.compile(r"forward\(\) missing \d+ required positional arguments?: (.+)")


@contextmanager
def refusing(module: nn.Module) -> Iterator[None]:
    """Report a model that fails to run without weights as unsupported.

    Raises:
        UnsupportedModel: with the cause.
    """
    try:
        yield
    except QEffError:
        raise
    except FAILURES as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if isinstance(error, TypeError) and (needed := _NOT_PASSED.search(line)):
            raise UnsupportedModel(
                f"{type(module).__name__} does not run on text alone: its forward() also needs {needed.group(1)}."
            ) from error
        raise UnsupportedModel(
            f"{type(module).__name__} does something that cannot be traced without weights and for any token: {line} "
            "See 'Adding a state kind' in the documentation."
        ) from error


def _run_once(lowered: LoweredModel, others: Mapping[str, torch.Tensor], media: MediaTokens | None) -> Cache:
    cache = DynamicCache(config=lowered.module.config)
    module = text_reader(lowered.module) if media is None else lowered.module
    with refusing(module), lowered.fake_mode, torch.no_grad(), ExitStack() as placed:
        inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "position_ids": torch.arange(2)[None]}
        if media is not None:
            step = StepMedia(media, inputs["input_ids"], torch.zeros(1, 2, media.width), index=inputs["position_ids"])
            placed.enter_context(placing(module, step))
            others = {**others, **step.arguments()}
        module(**accepted(module, inputs), **others, **{cache_argument(module): cache}, use_cache=True)
    return cache


def encoder_decoder_specs(model: nn.Module, width: int | None = None) -> tuple[list[StateSpec], list[StateSpec]]:
    """Self-attention state of each decoder layer, and its cross-attention state.

    Args:
        model: a Hugging Face model.
        width: of the states that the decoder attends to; None: those of the encoder.

    Raises:
        UnsupportedModel: no lowering supports the state of some layer yet.
    """
    self_specs, cross_specs = _encoder_decoder_specs(model, width)
    return list(self_specs), list(cross_specs)


@remembered
def _encoder_decoder_specs(model: nn.Module, width: int | None) -> tuple[list[StateSpec], list[StateSpec]]:
    first = first_layers(model)
    if first is not None:
        try:
            self_specs, cross_specs = _found_on_both_sides(first.module, width)
            indices = first.stands_for
            return [self_specs[index] for index in indices], [cross_specs[index] for index in indices]
        except FAILURES as error:
            logger.debug("%s is run with all of its layers: %s", type(model).__name__, error)
    with refusing(model):
        return _found_on_both_sides(model, width)


def _found_on_both_sides(model: nn.Module, width: int | None) -> tuple[list[StateSpec], list[StateSpec]]:
    lowered = run_eagerly(model)
    module: Any = lowered.module
    config = getattr(decoder_of(module), "config", module.config).get_text_config(decoder=True)
    layer_types, kwargs = get_layer_types_and_kwargs(config)
    cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache())
    encoder_width = getattr(module.get_encoder(), "config", module.config).get_text_config().hidden_size
    with refusing(module), lowered.fake_mode, torch.no_grad():
        read = EncoderStates(last_hidden_state=torch.zeros(1, 2, encoder_width))
        tokens = torch.zeros(1, 2, dtype=torch.int64)
        with decoder_attends(module, None if width is None else torch.zeros(1, 2, width), None):
            module(encoder_outputs=read, decoder_input_ids=tokens, past_key_values=cache, use_cache=True)
    windows = [_window(extra) for extra in kwargs]
    sizes = {window for window in windows if window is not None}
    self_layers, cross_layers = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
    if len(self_layers) != len(cross_layers) or any(layer_type not in KINDS for layer_type in layer_types):
        raise UnsupportedModel(
            f"{type(model).__name__} keeps the state of {len(self_layers)} layers "
            f"({', '.join(sorted(set(layer_types)))}) and of {len(cross_layers)} layers over its "
            "encoder, which no lowering holds yet."
        )
    layers = zip(layer_types, windows, self_layers, strict=True)
    return (
        [
            StateSpec(kind=KINDS[kind], tensors=_tensors(at, _ring_axis(size, sizes)), window=size)
            for kind, size, at in layers
        ],
        [StateSpec(kind="cross", tensors=_tensors(layer, ENCODER_CTX_LEN)) for layer in cross_layers],
    )


def cache_argument(module: nn.Module) -> str:
    """Name of the cache parameter of the module's forward."""
    parameters = inspect.signature(module.forward).parameters
    if "cache" in parameters and "Cache" in str(parameters["cache"].annotation):  # from transformers 5.24 on
        return "cache"
    return next((name for name in ("cache_params", "state") if name in parameters), "past_key_values")


def media_arguments(module: nn.Module) -> list[str]:
    """Names of what the module's forward needs beside tokens: pixels and the like."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return [each.name for each in named if each.default is inspect.Parameter.empty and each.name != "input_ids"]


def text_reader(module: nn.Module) -> Any:
    """What runs on text alone: ``module``, or its decoder where its forward also needs media."""
    sees_always = media_arguments(module) or features_of_forward(module) is not None
    return getattr(module, "get_decoder", lambda: module)() if sees_always else module


def accepted(module: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``inputs`` that the module's forward has a parameter for."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return inputs
    return {name: value for name, value in inputs.items() if name in parameters}
