"""Images, audio and prompts that show what a processor makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.processing.processor import Batch, process, sampling_rate, sounding, takes_text

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def picture(width: int, height: int) -> np.ndarray:
    """An image ``[height, width, 3]`` of uint8 that is the same each time, without areas of one colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)


def sound(num_samples: int) -> np.ndarray:
    """A tone that rises, float32 ``[num_samples]``, the same each time."""
    places = np.arange(num_samples) / max(1, num_samples)
    return (0.3 * np.sin(200 * places * (1 + places))).astype(np.float32)


SIZES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "image": (((448, 448), (448, 448)), ((896, 448),), ((336, 672),), ((1400, 1200),), ((64, 48),)),
    "audio": ((9.4, 9.4), (9.4,), (2.6,), (0.7,), (12.3,)),
}
"""Width and height of the images, and seconds of the clips, of prompts that show what an encoder takes, and what varies
with them; the first prompt has more than one."""
TEXT = "Describe this."
LONG_TEXT = TEXT * 40
"""For encoders that read the text too, where what is shorter is padded."""


def prompt_samples(processor: ProcessorMixin, modality: str) -> list[Batch]:
    """What ``processor`` makes of prompts with media of several sizes: two in one, where it takes so many, then one.

    Their texts have different lengths, as some encoders read them too.
    """
    first, *others = SIZES[modality]
    alone = [prompt_sample(processor, modality, sizes, TEXT * number) for number, sizes in enumerate(others, start=1)]
    try:
        return [prompt_sample(processor, modality, first, 2 * TEXT), *alone]
    except OptionError:
        return alone


def prompt_sample(processor: ProcessorMixin, modality: str, sizes: Sequence[Any], text: str = TEXT) -> Batch:
    """What ``processor`` makes of images of these sizes, or of clips of so many seconds, before a text."""
    text = text if takes_text(processor) else ""
    if modality == "image":
        return process(processor, text, [picture(*size) for size in sizes])
    rate = sampling_rate(processor) or 0
    clips = [sound(int(seconds * rate)) for seconds in sizes]
    return process(processor, sounding(processor, text, len(clips)), (), clips)
