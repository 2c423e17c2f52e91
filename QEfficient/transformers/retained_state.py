"""Cache layers over fixed-size state: the model's own attention reads and writes tensors that the graph takes in
and hands back.

Shape legend: B rows of this step, S tokens of this step, R rows of the state (B, or more under continuous
batching), C slots of a row, H key/value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from QEfficient.transformers.context_ops import ctx_gather, ctx_gather_cb, ctx_scatter, ctx_scatter_cb, settled_updates

StateKind = Literal["full", "sliding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """What one layer keeps between steps."""

    kind: StateKind
    num_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    """Tokens that a query sees back, itself included (sliding layers)."""

    def num_slots(self, ctx_len: int) -> int:
        """Slots that a row needs for a context of ``ctx_len`` tokens."""
        return ctx_len if self.window is None else min(self.window, ctx_len)


def _modulo(x: torch.Tensor, n: int) -> torch.Tensor:
    # As a tensor: the exporter has no remainder by a symbolic int.
    return torch.remainder(x, torch.scalar_tensor(n, dtype=x.dtype))


class RetainedStep:
    """Where the tokens of one step belong, worked out once and shared by all layers.

    Args:
        position_ids: ``[B, S]``; absolute positions ascending, padding −1 on the right.
        batch_index: ``[B, 1]``; the state row of each batch row. ``None``: row i is state row i.
        context_len: attend to the first slots only, this many; ``None``: to all. No position may lie beyond.
    """

    def __init__(
        self, position_ids: torch.Tensor, batch_index: torch.Tensor | None = None, context_len: Any | None = None
    ):
        self.position_ids = position_ids
        self.batch_index = batch_index
        self.context_len = context_len
        self.last_position, self.last_token = position_ids.max(dim=1, keepdim=True)
        self.is_idle = self.last_position < 0
        beyond = torch.iinfo(position_ids.dtype).max
        self.first_position = torch.where(position_ids < 0, beyond, position_ids).amin(dim=1, keepdim=True)
        self._whole: dict[str, torch.Tensor] = {}
        self._places: dict[bool, tuple[torch.Tensor, torch.Tensor]] = {}

    def _place(self, num_slots: Any, ring: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """For each token ``[B, S]`` its slot, and whether it is to be stored there.

        Tokens that must not be stored (padding, and those that a ring has already dropped) go to the slot of the
        row's newest token, an idle row's to slot 0: every index is in range.
        """
        if ring not in self._places:
            keep = self.position_ids >= 0
            if ring:
                keep = keep & (self.position_ids > self.last_position - num_slots)
            slots = torch.where(keep, self.position_ids, self.last_position.clamp(min=0))
            self._places[ring] = (_modulo(slots, num_slots) if ring else slots, keep)
        return self._places[ring]

    def write(self, state: torch.Tensor, new: torch.Tensor, ring: bool = False) -> torch.Tensor:
        """The state after storing ``new [B, H, S, D]`` in ``state [R, H, C, D]``: position p goes to slot p, or to
        p mod C in a ring."""
        slots, keep = self._place(state.shape[2], ring)
        held = self._rows(state[:, :, :1], "first slot")
        values = settled_updates(new, held, keep, self.last_token, self.is_idle)
        if self.batch_index is None:
            return ctx_scatter(state, slots, values)
        return ctx_scatter_cb(state, self.batch_index, slots, values)

    def read(self, state: torch.Tensor, ring: bool = False) -> torch.Tensor:
        """The rows of the state that this step works on, as far as it attends to them: ``[B, H, L, D]``."""
        if ring or self.context_len is None:
            return self._rows(state, "ring" if ring else "full")
        slots = torch.arange(self.context_len, device=state.device)[None, None]
        if self.batch_index is None:
            return ctx_gather(state, slots)
        return ctx_gather_cb(state, self.batch_index, slots, False)

    def _rows(self, state: torch.Tensor, kind: str) -> torch.Tensor:
        """All slots of the rows of this step; states of one ``kind`` have as many slots."""
        if self.batch_index is None:
            return state
        if kind not in self._whole:
            self._whole[kind] = torch.arange(state.shape[2], device=state.device)[None, None]
        return ctx_gather_cb(state, self.batch_index, self._whole[kind], True)


class RetainedLayer(CacheLayerMixin):
    """Full attention: slot = position, and attention reads the whole row."""

    is_compileable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, step: RetainedStep):
        super().__init__()
        self.keys, self.values, self.step = keys, values, step
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the state comes with the step."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self.step.write(self.keys, key_states)
        self.values = self.step.write(self.values, value_states)
        return self.step.read(self.keys), self.step.read(self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        """``(number of keys, their absolute positions)``: the second is what the mask function takes as offset."""
        num_keys = self.keys.shape[2] if self.step.context_len is None else self.step.context_len
        return num_keys, torch.arange(num_keys, device=self.keys.device)[None]

    def get_seq_length(self) -> int:
        # Models add the step's length to this to size biases over the keys (ALiBi), so it must be an int.
        return self.get_mask_sizes(self.step.position_ids.shape[1])[0] - self.step.position_ids.shape[1]

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class RetainedRingLayer(RetainedLayer):
    """Sliding attention: slot = position mod window; attention reads the ring as it was and the step's own tokens."""

    is_sliding = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self.step.read(self.keys, ring=True), key_states], dim=2)
        values = torch.cat([self.step.read(self.values, ring=True), value_states], dim=2)
        self.keys = self.step.write(self.keys, key_states, ring=True)
        self.values = self.step.write(self.values, value_states, ring=True)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, Any]:
        num_slots = self.keys.shape[2]
        slots = torch.arange(num_slots, device=self.keys.device)[None]
        newest = self.step.first_position - 1
        held = newest - _modulo(newest - slots, num_slots)  # below 0: never written by this sequence
        positions = torch.cat([held, self.step.position_ids], dim=1)
        return num_slots + query_length, positions


class RetainedCache(Cache):
    """The cache that a model sees in the ``retained`` lowering."""

    def __init__(self, layers: list[RetainedLayer], step: RetainedStep):
        super().__init__(layers=layers)
        self.step = step

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.step.position_ids


_LAYERS: dict[StateKind, type[RetainedLayer]] = {"full": RetainedLayer, "sliding": RetainedRingLayer}


def retained_cache(
    specs: list[StateSpec], state: list[tuple[torch.Tensor, torch.Tensor]], step: RetainedStep
) -> RetainedCache:
    """A cache over the given state: one ``(keys, values)`` pair a layer."""
    layers = [_LAYERS[spec.kind](*pair, step) for spec, pair in zip(specs, state, strict=True)]
    return RetainedCache(layers, step)
