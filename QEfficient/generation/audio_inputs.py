"""The inputs of models that take audio: files, samples, or what a processor makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.audio import AudioInput, as_array, load_audio, load_heard_audio
from QEfficient.generation.feature_extractor import FeatureExtractor

AudioInputs = AudioInput | Sequence[AudioInput] | Mapping[str, Any]
"""One audio or a list of them, each a file or samples; samples of several as an array ``[n, T]``; or a processor's
output."""
_SAMPLES_PER_PLACE = 4096
"""More than any feature extractor makes one place of."""


class TakesSignals(Protocol):
    """What a package says of its signals."""

    @property
    def input(self) -> str:
        """Name of the input."""

    @property
    def width(self) -> int | None:
        """Features of a place; None: samples have none."""

    @property
    def seq_lens(self) -> tuple[int, ...]:
        """Compiled lengths, ascending."""

    @property
    def is_time_last(self) -> bool:
        """Whether features are ``[width, T]`` there."""

    @property
    def is_whole(self) -> bool:
        """Whether what follows the audio is a part of its features."""


def read_signals(
    inputs: AudioInputs, takes: TakesSignals, extractor: Callable[[], FeatureExtractor]
) -> list[np.ndarray]:
    """What a model takes of each audio, float32 ``[T]`` or ``[T, width]``, without padding.

    Args:
        inputs: audio, or a processor's output.
        takes: what the model takes.
        extractor: returns the feature extractor; called only if there is audio.

    Raises:
        OptionError: the inputs have none of the forms of :data:`AudioInputs`.
        CapacityError: there is none, or one is longer than the package takes.
    """
    if isinstance(inputs, Mapping) or hasattr(inputs, takes.input):
        return processed(inputs, takes)
    opened, longest = extractor(), takes.seq_lens[-1]
    most = longest if takes.width is None else longest * _SAMPLES_PER_PLACE
    most = min(most, opened.max_len or most) if takes.is_whole else most
    load = load_heard_audio if takes.is_whole else load_audio
    rows = [
        opened.features(load(each, opened.sampling_rate, most, f"Audio {index}"), takes.input, takes.is_whole)
        for index, each in enumerate(each_audio(inputs))
    ]
    return [row.T if takes.is_time_last else row for row in rows]


_MAX_CHANNELS = 16
"""Of an array that has a column for each; one of several clips has more samples than these."""


def each_audio(inputs: AudioInputs) -> list[AudioInput]:
    """The audio of one or several.

    Raises:
        OptionError: the inputs are none.
        CapacityError: there is none.
    """
    if isinstance(inputs, str | os.PathLike):
        return [inputs]
    ndim = getattr(inputs, "ndim", None)
    if ndim is not None:
        array = as_array(inputs, "Audio")
        if array.ndim not in (1, 2):
            raise OptionError(f"Audio has the shape {list(array.shape)}, expected samples [T], or [n, T] of several.")
        if array.ndim == 2 and array.shape[1] <= _MAX_CHANNELS < array.shape[0]:
            raise OptionError(
                f"Audio has the shape {list(array.shape)}, samples of {array.shape[1]} channels, expected samples [T], "
                "or [n, T] of several. Average the channels: audio.mean(axis=1)."
            )
        return [array] if array.ndim == 1 else list(array)
    if not isinstance(inputs, list | tuple):
        raise OptionError(
            "Audio must be a file, samples as an array of floats, a list of these, or a processor's output, got "
            f"{type(inputs).__name__}."
        )
    if not inputs:
        raise CapacityError("No audio was passed.")
    if all(isinstance(value, int | float) for value in inputs):
        return [np.asarray(inputs, np.float32)]
    return [*inputs]


def processed(encoding: Mapping[str, Any] | object, takes: TakesSignals) -> list[np.ndarray]:
    """The rows of a processor's output, without padding.

    Args:
        encoding: a mapping, or an object with attributes.
        takes: what the model takes.

    Raises:
        OptionError: it has no such field, or its mask does not fit it.
    """
    fields, name = encoding if isinstance(encoding, Mapping) else vars(encoding), takes.input
    if fields.get(name) is None:
        raise OptionError(f"The model takes {name}, and the processor's output has {', '.join(map(str, fields))}.")
    rows = [as_array(row, f"{name} {index}") for index, row in enumerate(fields[name])]
    if not rows:
        raise CapacityError("No audio was passed.")
    rows = [row.T if takes.is_time_last else row for row in rows]
    mask = fields.get("attention_mask")
    if mask is None or takes.is_whole:
        return rows
    lens = [int(np.asarray(row).sum()) for row in mask]
    sizes = [len(np.asarray(row)) for row in mask]
    if sizes != [len(row) for row in rows]:
        raise OptionError(f"{name} and attention_mask differ in length: {[len(row) for row in rows]} and {sizes}.")
    if not all(np.asarray(row)[:length].all() for row, length in zip(mask, lens, strict=True)):
        raise OptionError(f"{name} is padded on the left: pad on the right.")
    return [row[:length] for row, length in zip(rows, lens, strict=True)]
