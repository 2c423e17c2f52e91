"""What the retained state promises, in plain PyTorch: against a naive state, and over random chunkings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from QEfficient.transformers.lowering.attention import retained_attention
from QEfficient.transformers.lowering.cache_layers import RetainedLayer, RetainedRingLayer, retained_cache
from QEfficient.transformers.lowering.cache_spec import axis_sizes, key_value_spec
from QEfficient.transformers.lowering.masks import additive_mask
from QEfficient.transformers.lowering.step import RetainedStep

HEADS, DIM, SLOTS, WINDOW = 2, 4, 24, 6
SEEDS = range(15)


@dataclass
class Step:
    """One step of a random session: ragged rows, idle rows, rows in any order."""

    positions: torch.Tensor
    new: torch.Tensor
    rows: list[int]

    @property
    def batch_index(self) -> torch.Tensor:
        return torch.tensor(self.rows)[:, None]


@dataclass
class Session:
    """Random steps over a few state rows. ``lens`` is how far each row has come."""

    seed: int
    num_rows: int = 4
    lens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)
        self.lens = [0] * self.num_rows

    def number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.random))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random)

    def steps(self, all_rows: bool, padding: float = 0.0) -> list[Step]:
        """A dozen steps; tokens that are padding hold ``padding``."""
        return [self._step(all_rows, padding) for _ in range(12)]

    def _step(self, all_rows: bool, padding: float) -> Step:
        order = torch.randperm(self.num_rows, generator=self.random).tolist()
        rows = list(range(self.num_rows)) if all_rows else order[: self.number(1, self.num_rows)]
        width = self.number(1, 9)
        positions = torch.full((len(rows), width), -1)
        new = self.normal(len(rows), HEADS, width, DIM)
        for batch_row, row in enumerate(rows):
            if self.number(0, 9) == 0:
                self.lens[row] = 0  # another sequence takes the row
            count = min(self.number(0, width), SLOTS - self.lens[row])
            positions[batch_row, :count] = torch.arange(self.lens[row], self.lens[row] + count)
            new[batch_row, :, count:] = padding
            self.lens[row] += count
        return Step(positions, new, rows)


def naive_write(state: torch.Tensor, step: Step, num_slots: int) -> torch.Tensor:
    """Token by token, in order."""
    state = state.clone()
    for batch_row, row in enumerate(step.rows):
        for token, position in enumerate(step.positions[batch_row].tolist()):
            if position >= 0:
                state[row, :, position % num_slots] = step.new[batch_row, :, token]
    return state


@pytest.mark.parametrize("is_ring", [False, True], ids=["full", "ring"])
@pytest.mark.parametrize("all_rows", [True, False], ids=["own rows", "batch_index"])
@pytest.mark.parametrize("padding", [0.0, float("nan"), float("inf")], ids=str)
def test_write_is_the_naive_write(is_ring: bool, all_rows: bool, padding: float) -> None:
    """So padding changes no slot, idle rows and rows that take no part keep what they have."""
    num_slots = WINDOW if is_ring else SLOTS
    for seed in SEEDS:
        session = Session(seed)
        state = session.normal(session.num_rows, HEADS, num_slots, DIM)
        for step in session.steps(all_rows, padding):
            expected = naive_write(state, step, num_slots)
            retained = RetainedStep(step.positions, None if all_rows else step.batch_index)
            before = state.clone()
            written = retained.write(state, step.new, ring=is_ring)
            assert torch.equal(state, before), "the state that was given is not touched"
            assert torch.equal(written, expected), seed
            assert torch.equal(retained.read(written), written[step.rows]), seed
            state = written
        assert state.isfinite().all()


@pytest.mark.parametrize("is_ring", [False, True], ids=["full", "ring"])
def test_no_index_is_out_of_range_and_equal_ones_carry_equal_values(
    monkeypatch: pytest.MonkeyPatch, is_ring: bool
) -> None:
    """ONNX leaves open which of two writes to one slot stays."""
    writes: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    index_put = torch.Tensor.index_put

    def noting(state: torch.Tensor, indices: Any, values: torch.Tensor, *rest: Any) -> torch.Tensor:
        writes.append((indices, values, state))
        return index_put(state, indices, values, *rest)

    monkeypatch.setattr(torch.Tensor, "index_put", noting)
    num_twice = 0
    for seed in SEEDS:
        session = Session(seed)
        state = session.normal(session.num_rows, HEADS, WINDOW if is_ring else SLOTS, DIM)
        for step in session.steps(all_rows=False, padding=7.0):
            state = RetainedStep(step.positions, step.batch_index).write(state, step.new, ring=is_ring)
    assert len(writes) == 12 * len(SEEDS)
    for indices, values, state in writes:
        rows, heads, slots = (index.expand(values.shape[:-1]).reshape(-1).tolist() for index in indices)
        found: dict[tuple[int, int, int], torch.Tensor] = {}
        for key, value in zip(zip(rows, heads, slots, strict=True), values.reshape(-1, DIM), strict=True):
            assert all(0 <= part < size for part, size in zip(key, state.shape[:3], strict=True))
            num_twice += key in found
            assert torch.equal(found.setdefault(key, value), value), key
    assert num_twice > 500, "or the test says nothing"


def test_idle_step_changes_nothing() -> None:
    state = torch.randn(3, HEADS, SLOTS, DIM)
    step = RetainedStep(torch.full((2, 5), -1), torch.tensor([[2], [0]]))
    for ring in (False, True):
        assert torch.equal(step.write(state, torch.full((2, HEADS, 5, DIM), float("nan")), ring=ring), state)


def test_chunk_longer_than_the_ring_leaves_its_newest_tokens() -> None:
    new = torch.arange(20.0).reshape(1, 1, 20, 1)
    state = RetainedStep(torch.arange(20)[None]).write(torch.zeros(1, 1, WINDOW, 1), new, ring=True)
    assert state.flatten().tolist() == [18, 19, 14, 15, 16, 17]


class Naive:
    """Attention over everything that a sequence has had, one query at a time."""

    def __init__(self, num_rows: int):
        self.keys: list[list[torch.Tensor]] = [[] for _ in range(num_rows)]
        self.values: list[list[torch.Tensor]] = [[] for _ in range(num_rows)]

    def attend(
        self, row: int, position: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int
    ) -> torch.Tensor:
        if position == 0:
            self.keys[row], self.values[row] = [], []
        self.keys[row].append(key)
        self.values[row].append(value)
        keys, values = torch.stack(self.keys[row][-window:], 1), torch.stack(self.values[row][-window:], 1)
        weights = torch.softmax(torch.einsum("hd,htd->ht", query, keys) * DIM**-0.5, dim=-1)
        return torch.einsum("ht,htd->hd", weights, values)


KINDS: dict[str, tuple[type[RetainedLayer], int, int, Callable[..., Any]]] = {
    "full": (RetainedLayer, SLOTS, SLOTS, causal_mask_function),
    "ring": (RetainedRingLayer, WINDOW, WINDOW, sliding_window_causal_mask_function(WINDOW)),
}
SPECS = {
    "full": key_value_spec("full", HEADS, DIM, DIM),
    "ring": key_value_spec("sliding", HEADS, DIM, DIM, WINDOW),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("all_rows", [True, False], ids=["own rows", "batch_index"])
def test_attention_is_that_over_the_whole_history(kind: str, all_rows: bool) -> None:
    """Rows ragged, restarted and idle; what an earlier sequence left in a row is never seen, nor is padding."""
    layer_class, num_slots, window, mask_function = KINDS[kind]
    for seed in SEEDS[:5]:
        session = Session(seed)
        naive = Naive(session.num_rows)
        keys = session.normal(session.num_rows, HEADS, num_slots, DIM) * 3
        values = session.normal(session.num_rows, HEADS, num_slots, DIM) * 3
        for step in session.steps(all_rows, padding=50.0):
            query, value = session.normal(*step.new.shape), session.normal(*step.new.shape)
            value[(step.positions < 0)[:, None].expand(-1, HEADS, -1)] = 1e6
            retained = RetainedStep(step.positions, None if all_rows else step.batch_index)
            layer = layer_class(SPECS[kind], [keys, values], retained)
            size, offset = layer.get_mask_sizes(step.positions.shape[1])
            mask = additive_mask(*step.positions.shape, size, step.positions, offset, mask_function)
            outputs, _ = retained_attention(nn.Module(), query, *layer.update(step.new, value), mask)
            keys, values = layer.keys, layer.values
            expected = outputs.clone()
            for b, t in (step.positions >= 0).nonzero().tolist():
                given = (query[b, :, t], step.new[b, :, t], value[b, :, t])
                expected[b, t] = naive.attend(step.rows[b], int(step.positions[b, t]), *given, window)
            torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
            assert outputs.isfinite().all(), "of padding too: a NaN there would come back through the next layer"


def test_slots_of_each_kind() -> None:
    full = key_value_spec("full", num_heads=1, key_dim=2, value_dim=3)
    sliding = key_value_spec("sliding", num_heads=1, key_dim=2, value_dim=3, window=16)
    assert axis_sizes([full, sliding], 100) == {"ctx_len": 100, "sliding_window": 16}
    assert axis_sizes([sliding], 8) == {"sliding_window": 8}
    state = [torch.zeros(1, 1, slots, dim) for slots in (100, 16) for dim in (2, 3)]
    cache = retained_cache([full, sliding], state, RetainedStep(torch.arange(4)[None]))
    assert [type(layer) for layer in cache.layers] == [RetainedLayer, RetainedRingLayer]
    assert [layer.get_mask_sizes(4)[0] for layer in cache.layers] == [100, 20]
    assert cache.get_seq_length() == 96, "with the step's length, all keys"


def test_ring_tells_where_its_tokens_are() -> None:
    """Slots that this sequence has not written are at negative positions, whatever an earlier one left there."""
    spec = key_value_spec("sliding", num_heads=1, key_dim=1, value_dim=1, window=4)
    layer = RetainedRingLayer(spec, [torch.ones(2, 1, 4, 1)] * 2, RetainedStep(torch.tensor([[6], [1]])))
    size, positions = layer.get_mask_sizes(1)
    assert size == 5
    assert positions[0].tolist() == [4, 5, 2, 3, 6]
    assert positions[1, [0, 4]].tolist() == [0, 1]
    assert (positions[1, 1:4] < 0).all()
