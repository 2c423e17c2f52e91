"""State of a layer between steps: its kind and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StateKind = Literal[
    "full", "sliding", "chunked", "indexed", "compressed", "linear", "conv", "hybrid", "hybrid_sliding", "cross",
    "images", "tokens", "none",
]  # fmt: skip

KINDS: dict[str, StateKind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "indexed_attention": "indexed",
    "linear_attention": "linear",
    "conv": "conv",
    "hybrid": "hybrid",
    "hybrid_sliding": "hybrid_sliding",
    "heavily_compressed_attention": "compressed",
    "compressed_sparse_attention": "compressed",
    "dummy": "none",
}
"""transformers' layer types."""

STATE_VALUE_BYTES = 2
"""State is counted in 16-bit values; a target that compresses it needs less."""
ROWS, CTX_LEN, WINDOW, ENCODER_CTX_LEN = "rows", "ctx_len", "sliding_window", "encoder_ctx_len"
"""Named axes of a state: its rows, the slots of a layer over the whole context, those of a ring, those of
cross-attention."""
INDEXER_KEY, INDEXER_POSITION = "indexer_key", "indexer_position"
"""What an indexer selects keys by, and the coordinates of keys, where the keys are rotated when they are read."""
NUM_DIGITS, DIGIT = 2, 512
"""Digits of a coordinate in the state, and their base: exact in fp16."""


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of a layer's state."""

    name: str
    """Without the layer's number: ``past_key``."""
    shape: tuple[int | str, ...]
    """Sizes, or names of axes whose size is set when a package is made; the first is ``ROWS``."""

    def num_values(self, sizes: dict[str, int]) -> int:
        """Number of values per row; ``sizes`` are those of the named axes."""
        count = 1
        for size in self.shape[1:]:
            count *= sizes[size] if isinstance(size, str) else size
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """State of one layer between steps."""

    kind: StateKind
    tensors: tuple[StateTensor, ...]
    window: int | None = None
    """Tokens that a ring must store: the attention window of a query, itself included, or the length of a chunk."""
    block_len: int | None = None
    """Tokens that a compressor turns into one key."""

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
        """Whether the state depends on the order of all past tokens, so that no token can be removed."""
        return any(tensor.name.startswith(("conv_state", "recurrent_state")) for tensor in self.tensors)

    @property
    def depends_on_length(self) -> bool:
        """Whether the layer's code branches on the context length, so that a graph traced at one length is wrong at
        another."""
        return self.kind in ("indexed", "compressed")

    def _size(self, name: str, axis: int) -> int:
        size = next(tensor for tensor in self.tensors if tensor.name == name).shape[axis]
        assert isinstance(size, int)
        return size


def key_value_spec(
    kind: StateKind, num_heads: int, key_dim: int, value_dim: int, window: int | None = None
) -> StateSpec:
    """A layer whose state is keys and values only."""
    axis = CTX_LEN if window is None else WINDOW
    keys = StateTensor("past_key", (ROWS, num_heads, axis, key_dim))
    return StateSpec(kind=kind, tensors=(keys, StateTensor("past_value", (*keys.shape[:3], value_dim))), window=window)


def windows(specs: list[StateSpec]) -> dict[str, int]:
    """Named axes of rings -> the window of each."""
    return {str(spec.ring_axis): spec.window for spec in specs if spec.window is not None and spec.ring_axis}


def axis_sizes(specs: list[StateSpec], ctx_len: int) -> dict[str, int]:
    """Sizes of the named axes of the states, other than their rows."""
    named = {size for spec in specs for tensor in spec.tensors for size in tensor.shape[1:] if isinstance(size, str)}
    sizes = {CTX_LEN: ctx_len, **{axis: min(size, ctx_len) for axis, size in windows(specs).items()}}
    return {axis: size for axis, size in sizes.items() if axis in named}
