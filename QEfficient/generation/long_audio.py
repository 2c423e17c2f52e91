"""Audio longer than a model reads at once: window after window, each from where the last whole segment ended.

As transformers' sequential algorithm, whose numbers of places and seconds these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from QEfficient.generation.transcript import Segment

MAX_SECONDS = 4 * 3600
"""Of audio that is read at most."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A place in the features of audio."""

    features: np.ndarray
    """Of all of it, ``[width, T]``."""
    length: int
    """Places of a window."""
    states: int
    """States of the encoder that a window becomes; its timestamps count them."""
    seconds: float
    """Of a window."""
    place: int = 0
    """Where the window begins."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing after :attr:`place`."""
        return self.place >= self.features.shape[1]

    @property
    def num_places(self) -> int:
        """Places of the window that are of the audio."""
        return min(self.features.shape[1] - self.place, self.length)

    @property
    def precision(self) -> float:
        """Seconds from one timestamp to the next."""
        return self.seconds / self.states

    @property
    def places_per_state(self) -> int:
        """Places that one state stands for."""
        return self.length // self.states

    @property
    def start(self) -> float:
        """Seconds before the window."""
        return self.place * self.precision / self.places_per_state

    def signal(self) -> np.ndarray:
        """The window ``[length, width]``, zeros after the audio."""
        part = self.features[:, self.place : self.place + self.num_places]
        return np.pad(part, ((0, 0), (0, self.length - part.shape[1]))).T.astype(np.float32)

    def after(self, step: int) -> Windows:
        """The window that begins ``step`` places later."""
        return replace(self, place=self.place + step)


def segments_of(answer: Sequence[int], window: Windows, first_timestamp: int) -> tuple[list[Segment], int]:
    """The segments of a window's answer, and how many places the next window begins later.

    Args:
        answer: its tokens, without an end token.
        window: what was answered to.
        first_timestamp: the token of time 0; those of later times follow it.
    """
    is_time = [token >= first_timestamp for token in answer]
    ends = [place + 1 for place in range(len(answer) - 1) if is_time[place] and is_time[place + 1]]
    if not ends:
        return [_whole(answer, is_time, window, first_timestamp)], window.num_places
    ends_with_one = is_time[-2:] == [False, True]
    if ends_with_one:
        ends.append(len(answer))
    else:
        ends[-1] += 1
    segments, begin = [], 0
    for place, end in enumerate(ends):
        tokens = list(answer[begin:end])
        last = tokens[-1] if place < len(ends) - 1 or ends_with_one else tokens[-2]
        times = [window.start + (token - first_timestamp) * window.precision for token in (tokens[0], last)]
        segments.append(Segment(start=times[0], end=times[1], token_ids=tokens))
        begin = end
    if ends_with_one:
        return segments, window.num_places
    # What follows the last whole segment is answered again.
    return segments, (answer[begin - 2] - first_timestamp) * window.places_per_state


def _whole(answer: Sequence[int], is_time: Sequence[bool], window: Windows, first_timestamp: int) -> Segment:
    """An answer without the end of a segment in it."""
    last = int(window.num_places * (window.seconds / window.length) / window.precision)
    times = [token for token, time in zip(answer, is_time, strict=True) if time]
    if times and times[-1] != first_timestamp:
        last = times[-1] - first_timestamp
    return Segment(start=window.start, end=window.start + last * window.precision, token_ids=list(answer))
