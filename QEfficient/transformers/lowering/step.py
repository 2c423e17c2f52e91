"""Where the tokens of a step belong in a state of fixed size, and how they are written and read.

Shape legend: B rows of this step, S tokens of this step, R rows of the state (B, or more under continuous
batching), C slots of a row, H key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from QEfficient.transformers.lowering.kv_cache_ops import (
    ctx_gather,
    ctx_gather_cb,
    ctx_scatter,
    ctx_scatter_cb,
    settled_updates,
)

MAX_STEP_LEN = 128
"""Default maximum of tokens in a step."""


def modulo(x: torch.Tensor, n: int) -> torch.Tensor:
    # As a tensor: the exporter has no remainder by a symbolic int.
    return torch.remainder(x, torch.scalar_tensor(n, dtype=x.dtype))


class RetainedStep:
    """Where the tokens of one step belong, computed once and shared by all layers.

    Args:
        position_ids: ``[B, S]``; absolute positions ascending, padding −1 on the right.
        batch_index: ``[B, 1]``; the state row of each batch row. ``None``: row i is state row i.
        context_len: number of slots to attend to, from the first; ``None``: all. All positions must lie below it.
        max_step_len: maximum of S; recurrences are unrolled to it.
        coordinates: ``[P, B, S]``, of the tokens, where rotary embeddings have several. ``None``: their positions.
    """

    def __init__(
        self,
        position_ids: torch.Tensor,
        batch_index: torch.Tensor | None = None,
        context_len: int | None = None,
        max_step_len: int = MAX_STEP_LEN,
        coordinates: torch.Tensor | None = None,
    ):
        self.position_ids = position_ids
        self.batch_index = batch_index
        self.context_len = context_len
        self.max_step_len = max_step_len
        self.coordinates = coordinates
        self.last_position, self.last_token = position_ids.max(dim=1, keepdim=True)
        self.is_idle = self.last_position < 0
        self.is_token = position_ids >= 0
        beyond = torch.iinfo(position_ids.dtype).max
        self.first_position = torch.where(position_ids < 0, beyond, position_ids).amin(dim=1, keepdim=True)
        self._begins: Iterator[torch.Tensor] = iter(())
        self._whole: dict[Hashable, torch.Tensor] = {}
        self._places: dict[Hashable, tuple[torch.Tensor, torch.Tensor]] = {}

    def _place(self, num_slots: Any, ring: Hashable) -> tuple[torch.Tensor, torch.Tensor]:
        """Slot of each token ``[B, S]``, and whether to store the token there.

        Tokens that must not be stored (padding, and tokens that have left a ring) get the slot of the row's newest
        token, those of an idle row slot 0: every index is in range.
        """
        if ring not in self._places:
            keep = self.is_token
            if ring:
                keep = keep & (self.position_ids > self.last_position - num_slots)
            slots = torch.where(keep, self.position_ids, self.last_position.clamp(min=0))
            self._places[ring] = (modulo(slots, num_slots) if ring else slots, keep)
        return self._places[ring]

    def write(self, state: torch.Tensor, new: torch.Tensor, ring: Hashable = None) -> torch.Tensor:
        """The state after storing ``new [B, H, S, D]`` in ``state [R, H, C, D]``: position p goes to slot p, or to
        p mod C in a ring. Rings of the same size share a name, ``ring``."""
        slots, keep = self._place(state.shape[2], ring)
        first_slot = self._rows(state[:, :, :1], "first slot")
        values = settled_updates(new, first_slot, keep, self.last_token, self.is_idle)
        if self.batch_index is None:
            return ctx_scatter(state, slots, values)
        return ctx_scatter_cb(state, self.batch_index, slots, values)

    def read(self, state: torch.Tensor, ring: Hashable = None) -> torch.Tensor:
        """The slots that this step attends to, of the rows it works on: ``[B, H, L, D]``."""
        if ring or self.context_len is None:
            return self._rows(state, ring or "full")
        slots = torch.arange(self.context_len, device=state.device)[None, None]
        if self.batch_index is None:
            return ctx_gather(state, slots)
        return ctx_gather_cb(state, self.batch_index, slots, False)

    def _rows(self, state: torch.Tensor, kind: Hashable) -> torch.Tensor:
        """All slots of the rows of this step; states of the same ``kind`` have equally many slots."""
        if self.batch_index is None:
            return state
        if kind not in self._whole:
            self._whole[kind] = torch.arange(state.shape[2], device=state.device)[None, None]
        return ctx_gather_cb(state, self.batch_index, self._whole[kind], True)

    def read_row(self, state: torch.Tensor) -> torch.Tensor:
        """Rows of this step in a state without slots, ``[R, ...]`` to ``[B, ...]``: zeros where a sequence begins."""
        rows = self._rows(_as_slot(state), "row").reshape(-1, *state.shape[1:])
        begins = (self.first_position == 0).reshape(-1, *[1] * (state.ndim - 1))
        return torch.where(begins, torch.zeros_like(rows), rows)

    def write_row(self, state: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """The state ``[R, ...]`` after storing ``new [B, ...]``; idle rows are unchanged."""
        rows = self._rows(_as_slot(state), "row").reshape(-1, *state.shape[1:])
        is_idle = self.is_idle.reshape(-1, *[1] * (state.ndim - 1))
        new = torch.where(is_idle, rows, new)
        if self.batch_index is None:
            return new
        slots = torch.zeros_like(self.batch_index)
        return ctx_scatter_cb(_as_slot(state), self.batch_index, slots, _as_slot(new)).reshape(state.shape)

    def begin_recurrence(self, state: torch.Tensor | None) -> None:
        """Set the initial state ``[B, ...]`` of the next scan, where its function has no argument for it."""
        self._begins = iter(()) if state is None else iter([state])

    def next_beginning(self, num_dims: int) -> torch.Tensor:
        """The initial state of a scan; where the layer scans head by head, those of the heads in turn."""
        state = next(self._begins)
        if state.ndim > num_dims:
            state, *rest = state.unbind(1)
            self._begins = iter(rest)
        return state

    def newest(self, values: torch.Tensor, num_kept: int) -> torch.Tensor:
        """The last ``num_kept`` columns of ``values [B, D, K + S]`` that are not padding: ``[B, D, num_kept]``.

        The first K columns are the cached ones, the rest those of the step.
        """
        num_tokens = torch.where(self.is_idle, 0, self.last_token + 1)
        num_past = values.shape[2] - self.position_ids.shape[1]
        places = num_tokens + (num_past - num_kept) + torch.arange(num_kept, device=values.device)[None]
        return values.gather(2, places[:, None].expand(-1, values.shape[1], -1))


_STEP: ContextVar[RetainedStep] = ContextVar("retained_step")


@contextmanager
def running(step: RetainedStep) -> Iterator[None]:
    """Make ``step`` the current one, in this context only."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


def current_step() -> RetainedStep | None:
    """The step that the model runs now; None outside the ``retained`` lowering."""
    return _STEP.get(None)


def _as_slot(state: torch.Tensor) -> torch.Tensor:
    """A state without slots as one slot of one head: ``[R, 1, 1, size]``."""
    return state.reshape(state.shape[0], 1, 1, -1)
