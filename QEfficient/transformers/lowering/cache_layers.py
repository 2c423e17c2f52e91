"""Cache layers by kind of state: the model's attention and recurrences read and write tensors that are inputs and
outputs of the graph.

Shape legend: B rows of this step, S tokens of this step, R rows of the state (B, or more under continuous
batching), C slots of a row, H key/value heads, K columns of a convolution, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    EncoderDecoderCache,
    LinearAttentionCacheLayerMixin,
)

from QEfficient.transformers.lowering.cache_spec import (
    DIGIT,
    INDEXER_KEY,
    INDEXER_POSITION,
    NUM_DIGITS,
    StateKind,
    StateSpec,
)
from QEfficient.transformers.lowering.step import RetainedStep, modulo


class RetainedLayer(CacheLayerMixin):
    """Full attention: slot = position, and attention reads the whole row."""

    is_compileable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        super().__init__()
        self.spec, self.step = spec, step
        self.keys, *others = state
        self.has_values = len(spec.tensors) > 1 and spec.tensors[1].name.startswith("past_value")
        self.values = others[0] if self.has_values else self.keys[..., :0]
        self.is_initialized = True

    def state(self) -> list[torch.Tensor]:
        """The layer's state tensors, in the spec's order."""
        return [self.keys, self.values] if self.has_values else [self.keys]

    def lazy_initialization(self, *args: object, **kwargs: object) -> None:
        """Nothing to do: the state comes with the step."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self.step.write(self.keys, key_states)
        keys = self.step.read(self.keys)
        if not self.has_values:
            return keys, keys[..., :0]
        self.values = self.step.write(self.values, value_states)
        return keys, self.step.read(self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        """``(number of keys, their absolute positions)``: the second is what the mask function takes as offset."""
        num_keys = self.keys.shape[2] if self.step.context_len is None else self.step.context_len
        return num_keys, torch.arange(num_keys, device=self.keys.device)[None]

    def get_seq_length(self) -> int:
        # Models add the step's length to this to size biases over the keys (ALiBi), so it must be an int.
        return self.get_mask_sizes(self.step.position_ids.shape[1])[0] - self.step.position_ids.shape[1]

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class RetainedIndexedLayer(RetainedLayer):
    """Full attention over the keys that an indexer selects; the indexer's keys are ``[R, C, D]``."""

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        super().__init__(spec, state, step)
        tensors = {part.name: tensor for part, tensor in zip(spec.tensors, state, strict=True)}
        self.indexer_keys = tensors.get(INDEXER_KEY)
        self._positions = tensors.get(INDEXER_POSITION)
        if self._positions is not None:
            # Coordinates of the slots, ``[P, B, L]``, to which models append those of the step.
            self._positions, self.indexer_position_ids = self._located(self._positions)
        self.is_indexer_initialized = True

    def state(self) -> list[torch.Tensor]:
        others = (self.indexer_keys, self._positions)
        return [*super().state(), *(tensor for tensor in others if tensor is not None)]

    def _located(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The state ``[R, C, 2 * P]`` after the step, and the coordinates of its rows, ``[P, B, L]``."""
        count, places = positions.shape[2] // NUM_DIGITS, self.step.position_ids[None]
        coordinates = (places if self.step.coordinates is None else self.step.coordinates).clamp(min=0)
        coordinates = coordinates.expand(count, -1, -1).permute(1, 2, 0)
        digits = [coordinates % DIGIT, torch.div(coordinates, DIGIT, rounding_mode="floor")]
        written = self.step.write(positions[:, None], torch.cat(digits, dim=2)[:, None].to(positions.dtype))
        low, high = self.step.read(written)[:, 0].long().split(count, dim=2)
        return written[:, 0], (low + DIGIT * high).permute(2, 0, 1)

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """Store the step's indexer keys ``[B, S, D]`` and return all keys of the rows, ``[B, C, D]``."""
        assert self.indexer_keys is not None
        keys = self.step.write(self.indexer_keys[:, None], indexer_key_states[:, None])
        self.indexer_keys = keys[:, 0]
        return self.step.read(keys)[:, 0]


class RetainedRingLayer(RetainedLayer):
    """Sliding attention: slot = position mod window; attention reads the ring before the step, then the new tokens."""

    is_sliding = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ring = self.spec.ring_axis
        keys = torch.cat([self.step.read(self.keys, ring), key_states], dim=2)
        values = torch.cat([self.step.read(self.values, ring), value_states], dim=2)
        self.keys = self.step.write(self.keys, key_states, ring)
        self.values = self.step.write(self.values, value_states, ring)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        num_slots = self.keys.shape[2]
        slots = torch.arange(num_slots, device=self.keys.device)[None]
        newest = self.step.first_position - 1
        ring_positions = newest - modulo(newest - slots, num_slots)  # below 0: never written by this sequence
        positions = torch.cat([ring_positions, self.step.position_ids], dim=1)
        return num_slots + query_length, positions


class RetainedCompressedLayer(RetainedRingLayer):
    """Sliding attention whose keys are also its values, plus blocks of tokens that a compressor turns into one key.

    The cache stores the compressor's inputs, ``[R, C, D]`` each, and every step compresses them again: positions alone
    then decide which blocks are complete.
    """

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        super().__init__(spec, [state[0], state[0]], step)
        self._parts = {part.name: tensor for part, tensor in zip(spec.tensors[1:], state[1:], strict=True)}

    def state(self) -> list[torch.Tensor]:
        return [self.keys, *self._parts.values()]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self.step.read(self.keys, self.spec.ring_axis), key_states], dim=2)
        self.keys = self.step.write(self.keys, key_states, self.spec.ring_axis)
        return keys, keys

    def store_compression_weights(
        self, name: str, kv: torch.Tensor, gate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Store the step's parts ``[B, S, D]``; return all parts of the rows, cut to whole blocks, and the position
        of the first block."""
        kv, gate = (self._store(f"{name}_{part}", new) for part, new in (("kv", kv), ("gate", gate)))
        assert self.spec.block_len is not None
        usable = kv.shape[1] // self.spec.block_len * self.spec.block_len
        return kv[:, :usable], gate[:, :usable], 0

    def _store(self, name: str, new: torch.Tensor) -> torch.Tensor:
        stored = self.step.write(self._parts[name][:, None], new[:, None])
        self._parts[name] = stored[:, 0]
        return self.step.read(stored)[:, 0]

    def update_compressor_states(self, name: str, compressed: torch.Tensor) -> torch.Tensor:
        """All blocks, as just compressed."""
        return compressed

    def update_overlap_state(self, *args: object) -> tuple[None, None]:
        """Nothing lies before the first block."""
        return None, None


class RetainedRecurrentLayer(LinearAttentionCacheLayerMixin):
    """Convolutions and recurrences: a row is one state, whatever the number of tokens it has seen."""

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        tensors = {part.name: tensor for part, tensor in zip(spec.tensors, state, strict=True)}
        LinearAttentionCacheLayerMixin.__init__(self, number_of_states=1 + max(map(_number, tensors)))
        self.spec, self.step = spec, step
        kinds = ("conv_state", "recurrent_state")
        self._states = {name: tensor for name, tensor in tensors.items() if name.startswith(kinds)}
        for number in range(self.number_of_states):
            self.has_previous_state[number] = True
            for kind, states in (("conv_state", self.conv_states), ("recurrent_state", self.recurrent_states)):
                if (tensor := self._states.get(_numbered(kind, number))) is not None:
                    states[number] = step.read_row(tensor)

    def state(self) -> list[torch.Tensor]:
        """The layer's state tensors, in the spec's order."""
        return [*self._states.values()]

    def lazy_initialization(self, *args: object, **kwargs: object) -> None:
        """Nothing to do: the state comes with the step."""

    def update_conv_state(self, conv_states: torch.Tensor, state_idx: int = 0, **kwargs: object) -> torch.Tensor:
        """Cached columns, then the step's, ``[B, D, K + S]``; keeps the last K of them that are not padding."""
        past = self.conv_states[state_idx]
        assert past is not None
        columns = torch.cat([past, conv_states], dim=-1)
        new = self.step.newest(columns, past.shape[-1])
        self._keep("conv_state", state_idx, new)
        return columns

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, **kwargs: object
    ) -> torch.Tensor:
        """Keep the state after the step."""
        self._keep("recurrent_state", state_idx, recurrent_states)
        return recurrent_states

    def _keep(self, kind: str, number: int, new: torch.Tensor) -> None:
        name = _numbered(kind, number)
        self._states[name] = self.step.write_row(self._states[name], new)


class RetainedHybridLayer(RetainedRecurrentLayer, RetainedLayer):
    """Recurrence beside full attention."""

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        RetainedLayer.__init__(self, spec, state, step)
        RetainedRecurrentLayer.__init__(self, spec, state, step)

    def state(self) -> list[torch.Tensor]:
        return [*RetainedLayer.state(self), *RetainedRecurrentLayer.state(self)]


class RetainedHybridRingLayer(RetainedHybridLayer, RetainedRingLayer):
    """Recurrence beside sliding attention."""


class RetainedStates(DummyLayer):
    """States ``[R, C, D]`` of images that all layers attend to: no layer's, but kept as a layer's are."""

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        super().__init__()
        self.step = step
        (self.states,) = state

    def state(self) -> list[torch.Tensor]:
        """The states."""
        return [self.states]

    def update_states(self, states: torch.Tensor) -> torch.Tensor:
        """Store the step's states ``[B, V, D]`` and return all of the rows, ``[B, C, D]``."""
        stored = self.step.write(self.states[:, None], states[:, None])
        self.states = stored[:, 0]
        return self.step.read(stored)[:, 0]


class RetainedNothing(DummyLayer):
    """A layer without state: it reuses another layer's keys and values, or has no attention."""

    def __init__(self, spec: StateSpec, state: Sequence[torch.Tensor], step: RetainedStep):
        super().__init__()

        self.keys = torch.empty(0)  # some models read its size

    def state(self) -> list[torch.Tensor]:
        """Nothing."""
        return []


def _number(name: str) -> int:
    end = name.rpartition("_")[2]
    return int(end) if end.isdigit() else 0


def _numbered(kind: str, number: int) -> str:
    return kind if number == 0 else f"{kind}_{number}"


class RetainedCache(Cache):
    """The cache that a model sees in the ``retained`` lowering."""

    def __init__(self, layers: list[Any], step: RetainedStep):
        super().__init__(layers=layers)
        self.step = step

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.step.position_ids

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        state = super().get_recurrent_state(layer_idx, state_idx)
        self.step.begin_recurrence(state)
        return state

    @property
    def is_linear(self) -> list[bool]:
        """Whether each layer is purely recurrent; masks take their keys from a layer that is not."""
        return [
            isinstance(layer, LinearAttentionCacheLayerMixin) and not isinstance(layer, CacheLayerMixin)
            for layer in self.layers
        ]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        has_positions = any(isinstance(layer, CacheLayerMixin) for layer in self.layers)
        return super().get_seq_length(layer_idx) if has_positions else 0

    def state(self) -> list[torch.Tensor]:
        """All layers' states, in order."""
        return [tensor for layer in self.layers for tensor in layer.state()]


_LAYERS: dict[StateKind, type[Any]] = {
    "full": RetainedLayer,
    "sliding": RetainedRingLayer,
    "chunked": RetainedRingLayer,
    "indexed": RetainedIndexedLayer,
    "linear": RetainedRecurrentLayer,
    "conv": RetainedRecurrentLayer,
    "hybrid": RetainedHybridLayer,
    "hybrid_sliding": RetainedHybridRingLayer,
    "compressed": RetainedCompressedLayer,
    "cross": RetainedLayer,
    "images": RetainedStates,
    "none": RetainedNothing,
}


def retained_cache(
    specs: Sequence[StateSpec],
    state: Sequence[torch.Tensor],
    step: RetainedStep,
    cross_step: RetainedStep | None = None,
) -> RetainedCache:
    """A cache over ``state``, the tensors of all layers in order.

    Args:
        specs: of the layers.
        state: their tensors.
        step: where the tokens belong.
        cross_step: where what cross-attention reads belongs, in a cache that has both.
    """
    tensors = iter(state)
    steps = dict.fromkeys(("cross", "images"), cross_step or step)
    layers = [
        _LAYERS[spec.kind](spec, [next(tensors) for _ in spec.tensors], steps.get(spec.kind, step)) for spec in specs
    ]
    return RetainedCache(layers, step)


class RetainedEncoderDecoderCache(EncoderDecoderCache):
    """Self-attention state of a decoder, and its cross-attention keys and values.

    Every step writes both: the positions of the encoder's step mark the input tokens to store.
    """

    def __init__(self, self_cache: RetainedCache, cross_cache: RetainedCache):
        self.self_attention_cache, self.cross_attention_cache = self_cache, cross_cache
        self.is_updated = dict.fromkeys(range(len(cross_cache.layers)), False)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.self_attention_cache.get_query_offset(layer_idx)

    def state(self) -> list[torch.Tensor]:
        """All layers' states in order, in each layer self-attention before cross-attention."""
        layers = zip(self.self_attention_cache.layers, self.cross_attention_cache.layers, strict=True)
        return [tensor for pair in layers for layer in pair for tensor in layer.state()]
