"""Images that a language model attends to in cross-attention layers, as a session takes them. Arrays only, no models.

Shape legend: S tokens of a prompt, V states of its images, D their width, N parts (tiles) of all images of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from QEfficient.contract import FEATURES, SEEN, SEEN_LENS, Count
from QEfficient.errors import CapacityError
from QEfficient.generation.media import Part, PromptMedia


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossLayout:
    """What a package's language model takes of such images."""

    width: Count
    """Of a state."""
    num_images: Count
    """Of a prompt, at most."""
    num_tiles: Count
    """Of an image."""
    tile_len: Count
    """States of a tile."""
    mask: str
    """Of a processor's output, the tiles that each token sees: ``[prompts, S, images]``, and ``tiles`` where there are
    several."""

    @property
    def image_len(self) -> int:
        """States of an image."""
        return self.num_tiles * self.tile_len

    def media(
        self,
        is_placeholder: np.ndarray,
        count: int,
        states: np.ndarray | None,
        seen: np.ndarray | None,
        prompt: int = 0,
    ) -> PromptMedia:
        """The images of one prompt.

        Args:
            is_placeholder: ``[S]``, the tokens that say where an image is.
            count: images.
            states: ``[V, D]`` of as many; None: there are none.
            seen: ``[S, images, tiles]``, the tiles that each token attends to.
            prompt: its place, for the message.

        Raises:
            CapacityError: it has more images than the package was compiled for.
        """
        if count > self.num_images:
            raise CapacityError(
                f"Prompt {prompt} has {count} images, and the package was compiled for {self.num_images} in a prompt. "
                f"Compile with max_num_images={count}."
            )
        parts = np.zeros((len(is_placeholder), self.num_images * self.num_tiles), np.int64)
        if seen is not None and count:
            parts[:, : count * self.num_tiles] = seen[:, :count].reshape(len(parts), -1)
        return PromptMedia(is_placeholder, states, seen=parts)


class CrossPacker:
    """Packs the images of several sequences as the inputs of one run."""

    def __init__(self, layout: CrossLayout):
        self.layout = layout

    def names(self, *, counts_rows: bool) -> frozenset[str]:
        """Names of the inputs."""
        return frozenset({FEATURES, SEEN, SEEN_LENS})

    def rows(
        self, parts: Sequence[Part], positions: np.ndarray, sizes: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Inputs of a run with a batch row for each sequence. The step that begins a prompt brings its images.

        Args:
            parts: of the run.
            positions: ``position_ids [B, S]`` of the run, padding −1.
            sizes: batch rows and states of a row, where the program has one shape of them.

        Raises:
            CapacityError: the program has no room for a prompt's images in the run that begins it.
        """
        batch_size, seq_len = positions.shape
        lens = [0 if part.media.features is None else len(part.media.features) for part in parts]
        brought = [count if part.start == 0 else 0 for part, count in zip(parts, lens, strict=True)]
        length = sizes[1] if sizes else max(1, *brought)
        if max(brought) > length:
            raise CapacityError(
                f"The run that begins a prompt has room for {length} states of images, and the prompt has "
                f"{max(brought)}. Compile without prefill_only=False, with a prefill_seq_len above 1."
            )
        inputs: dict[str, np.ndarray] = {
            FEATURES: np.zeros((batch_size, length, self.layout.width), np.float32),
            SEEN: np.zeros((batch_size, seq_len, self.layout.num_images * self.layout.num_tiles), np.int64),
            SEEN_LENS: np.zeros((batch_size, 1), np.int64),
        }
        for part, count, new in zip(parts, lens, brought, strict=True):
            inputs[SEEN_LENS][part.row] = count
            if new and part.media.features is not None:
                inputs[FEATURES][part.row, :new] = part.media.features
            if count and part.media.seen is not None:
                # New tokens see what the last of the prompt does.
                places = np.minimum(np.arange(part.start, part.start + part.count), len(part.media.seen) - 1)
                inputs[SEEN][part.row, : part.count] = part.media.seen[places]
        return inputs
