"""Finds out what each layer of a model keeps between steps, by running it once without weights."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, get_layer_types_and_kwargs

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.state import CTX_LEN, KINDS, ROWS, WINDOW, StateSpec, StateTensor
from QEfficient.transformers.transform import run_eagerly


def state_specs(model: nn.Module) -> list[StateSpec]:
    """What each layer of ``model`` keeps, found by running two tokens through a weightless copy.

    Raises:
        UnsupportedModel: a layer keeps something that no lowering holds yet.
    """
    config = model.config.get_text_config(decoder=True)
    layer_types, kwargs = get_layer_types_and_kwargs(config)
    for index, layer_type in enumerate(layer_types):
        if layer_type not in KINDS:
            raise UnsupportedModel(
                f"Layer {index} of {type(model).__name__} keeps '{layer_type}' state, which no lowering holds yet; "
                f"supported: {', '.join(KINDS)}. See docs/source/adding_a_state_kind.md."
            )
    windows = [extra.get("sliding_window") for extra in kwargs]
    sizes = {window for window in windows if window is not None}
    layers = _run_once(model).layers
    return [
        StateSpec(
            kind=KINDS[layer_type] if (tensors := _tensors(layer, _ring_axis(window, sizes))) else "none",
            tensors=tensors,
            window=window if tensors else None,
        )
        for layer_type, window, layer in zip(layer_types, windows, layers, strict=True)
    ]


def _ring_axis(window: int | None, sizes: set[int]) -> str | None:
    if window is None:
        return None
    return WINDOW if len(sizes) == 1 else f"{WINDOW}_{window}"


def _tensors(layer: Any, ring_axis: str | None) -> tuple[StateTensor, ...]:
    """What a layer of transformers' cache holds after a step."""
    found = []
    slots = ring_axis or CTX_LEN
    if isinstance(layer, CacheLayerMixin) and layer.keys is not None:
        for name, held in (("past_key", layer.keys), ("past_value", layer.values)):
            found.append(StateTensor(name, (ROWS, held.shape[1], slots, held.shape[3])))
    if getattr(layer, "indexer_keys", None) is not None:
        found.append(StateTensor("indexer_key", (ROWS, slots, layer.indexer_keys.shape[2])))
    for name, held_by_number in (("conv_state", "conv_states"), ("recurrent_state", "recurrent_states")):
        for number, held in getattr(layer, held_by_number, {}).items():
            if held is not None:
                found.append(StateTensor(name if number == 0 else f"{name}_{number}", (ROWS, *held.shape[1:])))
    return tuple(found)


def _run_once(model: nn.Module) -> Cache:
    lowered = run_eagerly(model)
    cache = DynamicCache(config=lowered.module.config)
    with lowered.fake_mode, torch.no_grad():
        inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "position_ids": torch.arange(2)[None]}
        lowered.module(**accepted(lowered.module, inputs), **{cache_argument(lowered.module): cache}, use_cache=True)
    return cache


def cache_argument(module: nn.Module) -> str:
    """What the module's forward calls its cache."""
    return "cache_params" if "cache_params" in inspect.signature(module.forward).parameters else "past_key_values"


def accepted(module: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those of ``inputs`` that the module's forward has a parameter for."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return inputs
    return {name: value for name, value in inputs.items() if name in parameters}
