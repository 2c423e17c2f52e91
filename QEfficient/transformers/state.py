"""What each layer of a model keeps between steps: its kind, and the tensors that hold it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, get_layer_types_and_kwargs

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.transform import run_eagerly

StateKind = Literal["full", "sliding", "chunked", "indexed", "linear", "conv", "hybrid", "hybrid_sliding", "none"]

KINDS: dict[str, StateKind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "indexed_attention": "indexed",
    "linear_attention": "linear",
    "conv": "conv",
    "hybrid": "hybrid",
    "hybrid_sliding": "hybrid_sliding",
    "dummy": "none",
}
"""transformers' layer types."""

ROWS, CTX_LEN, WINDOW = "rows", "ctx_len", "sliding_window"
"""Named axes of a state: its rows, the slots of a layer that sees the whole context, those of a ring."""


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of a layer's state."""

    name: str
    """Without the layer's number: ``past_key``."""
    shape: tuple[int | str, ...]
    """Sizes, or the names of axes that are settled when a package is made; the first is ``ROWS``."""

    def num_values(self, sizes: dict[str, int]) -> int:
        """Values in a row; ``sizes`` are those of the named axes."""
        count = 1
        for size in self.shape[1:]:
            count *= sizes[size] if isinstance(size, str) else size
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """What one layer keeps between steps."""

    kind: StateKind
    tensors: tuple[StateTensor, ...]
    window: int | None = None
    """Tokens that a ring must hold: what a query sees back, itself included, or the length of a chunk."""

    @property
    def num_heads(self) -> int:
        """Heads of keys and values."""
        return self._size("past_key", 1)

    @property
    def key_dim(self) -> int:
        """Size of a key."""
        return self._size("past_key", 3)

    @property
    def value_dim(self) -> int:
        """Size of a value."""
        return self._size("past_value", 3)

    @property
    def ring_axis(self) -> str | None:
        """The named axis of the ring's slots."""
        return next((str(t.shape[2]) for t in self.tensors if t.name == "past_key" and self.window is not None), None)

    @property
    def is_recurrent(self) -> bool:
        """Whether a step's result depends on the order in which tokens came, so that none can be taken back."""
        return any(tensor.name.startswith(("conv_state", "recurrent_state")) for tensor in self.tensors)

    def _size(self, name: str, axis: int) -> int:
        size = next(tensor for tensor in self.tensors if tensor.name == name).shape[axis]
        assert isinstance(size, int)
        return size


def key_value_spec(kind: StateKind, num_heads: int, key_dim: int, value_dim: int, window: int | None = None) -> StateSpec:
    """A layer that keeps keys and values alone."""
    axis = CTX_LEN if window is None else WINDOW
    keys = StateTensor("past_key", (ROWS, num_heads, axis, key_dim))
    return StateSpec(
        kind=kind, tensors=(keys, StateTensor("past_value", (*keys.shape[:3], value_dim))), window=window
    )


def axis_sizes(specs: list[StateSpec], ctx_len: int) -> dict[str, int]:
    """Sizes of the named axes that the states have, less their rows."""
    windows = {spec.ring_axis: min(spec.window, ctx_len) for spec in specs if spec.window is not None}
    named = {size for spec in specs for tensor in spec.tensors for size in tensor.shape[1:] if isinstance(size, str)}
    sizes = {CTX_LEN: ctx_len, **{str(axis): size for axis, size in windows.items()}}
    return {axis: size for axis, size in sizes.items() if axis in named}


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
