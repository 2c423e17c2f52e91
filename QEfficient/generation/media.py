"""Images, videos and audio of a prompt as a session takes them: features by token. Arrays only, no models.

Shape legend: S tokens of a prompt, V rows of its features, D their width, K layers with features besides, P
coordinates of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import numpy as np

from QEfficient.contract import DEEPSTACK, FEATURES, FIRST_ROW, INDEX, Count, Range


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaLayout:
    """What a package's language model takes of media."""

    placeholders: dict[str, int]
    """Modality -> the token that stands for one row of its features; ``NO_TOKEN``: any, see ``mask``."""
    width: Count
    """Of a row of features."""
    has_pooled: bool
    """Whether the embeddings get features."""
    num_deepstack: Annotated[int, Range(0, 1024)] = 0
    """Layers that get features besides."""
    token_types: tuple[str, ...] = ()
    """Inputs with one value per token."""
    num_positions: Annotated[int, Range(0, 16)] = 0
    """Coordinates of a token, where rotary embeddings have several."""
    block_types: tuple[int, ...] = ()
    """Token types whose neighbours attend to each other in both directions, so that a step needs all of them."""
    mask: str = ""
    """The token type that is 1 for placeholders, where these may be any tokens."""
    is_added: bool = False
    """Whether every token, new ones too, has a row of features, which is added to its embedding."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """What of a processor's output are numbers that the graph was made with."""
    names: tuple[str, ...] = ()
    """What a processor's output may have; empty: it is not known."""

    @property
    def new_type(self) -> int:
        """Token type of new tokens: one without blocks."""
        return next(value for value in range(len(self.block_types) + 1) if value not in self.block_types)

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs, but for ``position_ids``."""
        names = [FEATURES] * self.has_pooled + [DEEPSTACK] * (self.num_deepstack > 0)
        return frozenset([*names, *self.token_types])


@dataclass(frozen=True, eq=False)
class PromptMedia:
    """What a prompt has beside its tokens."""

    is_placeholder: np.ndarray
    """``[S]``, whether each token stands for a row of features; goes on for new tokens, where these have some too."""
    features: np.ndarray | None = None
    """``[V, D]``, in the order of the placeholders."""
    deepstack: np.ndarray | None = None
    """``[K, V, D]``."""
    token_types: Mapping[str, np.ndarray] = field(default_factory=dict)
    """``[S]`` each."""
    coordinates: np.ndarray | None = None
    """``[P, S]``."""
    spans: tuple[tuple[int, int], ...] = ()
    """First and one past the last token of what must not be split among steps."""
    seen: np.ndarray | None = None
    """``[S, N]``, the parts of images that each token attends to in cross-attention layers."""

    def rows(self, start: int, count: int) -> slice:
        """The rows of features of ``count`` tokens from position ``start`` on."""
        before = int(self.is_placeholder[:start].sum())
        return slice(before, before + int(self.is_placeholder[start : start + count].sum()))

    def index(self, start: int, count: int, first: int = 0) -> np.ndarray:
        """``[count]``, the row of each token among those of :meth:`rows`, from ``first`` on; -1 for none."""
        shown = self.is_placeholder[start : start + count]
        rows = np.where(shown, np.cumsum(shown) - 1 + first, -1)
        return np.pad(rows, (0, count - len(rows)), constant_values=-1)

    def positions(self, start: int, count: int, num_positions: int) -> np.ndarray:
        """``[P, count]``, coordinates; those of new tokens go on after the largest of the prompt."""
        places = np.arange(start, start + count)
        known = self.coordinates
        if known is None or not known.shape[1]:
            return np.broadcast_to(places, (num_positions, count))
        length = known.shape[1]
        later = places - length + int(known.max()) + 1
        inside = known[:, np.minimum(places, length - 1)]
        return np.where(places < length, inside, later)

    def types(self, name: str, start: int, count: int, default: int) -> np.ndarray:
        """``[count]``, token types; ``default`` for new tokens."""
        values = self.token_types.get(name, np.zeros(len(self.is_placeholder), np.int64))[start : start + count]
        return np.pad(values, (0, count - len(values)), constant_values=default)


NOTHING = PromptMedia(np.zeros(0, bool))
"""Of a prompt that has none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one sequence in one run."""

    row: int
    """Of the batch."""
    media: PromptMedia
    start: int
    count: int

    @property
    def num_rows(self) -> int:
        """Rows of features of its tokens."""
        rows = self.media.rows(self.start, self.count)
        return rows.stop - rows.start


class MediaPacker:
    """Packs the media of several sequences as the inputs of one run."""

    def __init__(self, layout: MediaLayout):
        self.layout = layout

    def names(self, *, counts_rows: bool) -> frozenset[str]:
        """Names of the inputs, but for ``position_ids``; ``counts_rows``: whether the program counts rows itself."""
        return self.layout.inputs | {FIRST_ROW if counts_rows else INDEX}

    def ragged(self, parts: Sequence[Part]) -> dict[str, np.ndarray]:
        """Inputs of a run whose tokens lie on one axis: features ``[1, V, D]``, ``position_ids [1 + P, 1, T]``."""
        inputs = self._features(parts, 1, None)
        begins = np.cumsum([0, *(part.num_rows for part in parts)]).tolist()
        index = [part.media.index(part.start, part.count, begin) for part, begin in zip(parts, begins, strict=False)]
        inputs[INDEX] = np.concatenate(index)[None]
        for name in self.layout.token_types:
            types = [part.media.types(name, part.start, part.count, self.layout.new_type) for part in parts]
            inputs[name] = np.concatenate(types)[None]
        if count := self.layout.num_positions:
            places = [np.arange(part.start, part.start + part.count)[None] for part in parts]
            others = [part.media.positions(part.start, part.count, count) for part in parts]
            inputs["position_ids"] = np.concatenate([np.concatenate(places, 1), np.concatenate(others, 1)])[:, None]
        return inputs

    def rows(
        self, parts: Sequence[Part], positions: np.ndarray, sizes: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Inputs of a run with a batch row for each sequence.

        Args:
            parts: of the run.
            positions: ``position_ids [B, S]`` of the run, padding −1.
            sizes: sets of features and rows of a set, where the program has one shape of them.
        """
        batch_size, seq_len = positions.shape
        inputs = self._features(parts, sizes[0] if sizes else batch_size, sizes[1] if sizes else None, by_row=True)
        if sizes is not None:  # counted by the program; past the last row where there are none
            inputs[FIRST_ROW] = np.full((1, 1), 0 if any(part.num_rows for part in parts) else sizes[1], np.int64)
        else:
            inputs[INDEX] = np.full((batch_size, seq_len), -1, np.int64)
            for part in parts:
                inputs[INDEX][part.row, : part.count] = part.media.index(part.start, part.count)
        for name in self.layout.token_types:
            inputs[name] = np.zeros((batch_size, seq_len), np.int64)
            for part in parts:
                types = part.media.types(name, part.start, part.count, self.layout.new_type)
                inputs[name][part.row, : part.count] = types
        if count := self.layout.num_positions:
            others = np.repeat(positions[None], count, 0)
            for part in parts:
                others[:, part.row, : part.count] = part.media.positions(part.start, part.count, count)
            inputs["position_ids"] = np.concatenate([positions[None], others])
        return inputs

    def _features(
        self, parts: Sequence[Part], num_sets: int, set_len: int | None, *, by_row: bool = False
    ) -> dict[str, np.ndarray]:
        slices = [part.media.rows(part.start, part.count) for part in parts]
        counts = [part.num_rows for part in parts]
        length = set_len or max(1, max(counts, default=0) if by_row else sum(counts))
        layout, inputs = self.layout, {}
        if layout.has_pooled:
            inputs[FEATURES] = np.zeros((num_sets, length, layout.width), np.float32)
        if layout.num_deepstack:
            inputs[DEEPSTACK] = np.zeros((layout.num_deepstack, num_sets, length, layout.width), np.float32)
        begin = 0
        for part, rows, count in zip(parts, slices, counts, strict=True):
            if not count:
                continue
            place = (part.row if by_row else 0, slice(count) if by_row else slice(begin, begin + count))
            begin += count
            if layout.has_pooled and part.media.features is not None:
                inputs[FEATURES][place] = part.media.features[rows]
            if layout.num_deepstack and part.media.deepstack is not None:
                inputs[DEEPSTACK][:, place[0], place[1]] = part.media.deepstack[:, rows]
        return inputs


def spans_of(types: np.ndarray, block_types: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Runs of equal token types that are blocks, each of more than one token."""
    edges = [0, *(np.flatnonzero(np.diff(types)) + 1).tolist(), len(types)]
    blocks = {*block_types}
    return tuple((begin, end) for begin, end in pairwise(edges) if end - begin > 1 and int(types[begin]) in blocks)
