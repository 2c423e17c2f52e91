"""Prompts with images and audio, in the forms that callers pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import OptionError, nearest
from QEfficient.generation.audio import AudioInput, load_heard_audio
from QEfficient.generation.prompts import Prompts

if TYPE_CHECKING:
    from transformers import ProcessorMixin

Clips = AudioInput | Sequence[AudioInput] | Sequence[Sequence[AudioInput]]
"""Audio of one prompt, or a list for each."""
MAX_SECONDS = 3600
"""Of a clip."""


@dataclass(frozen=True, eq=False)
class Pictured:
    """Prompts with the images and audio of each, to be read by a processor."""

    prompts: Sequence[Any]
    images: Sequence[Sequence[Any]]
    processor: ProcessorMixin | None = None
    audio: Sequence[Sequence[AudioInput]] = ()
    """Of each prompt; empty: they have none."""


def with_media(
    prompts: Prompts | Pictured,
    images: Sequence[Any] | None,
    audio: Clips | None = None,
    processor: ProcessorMixin | None = None,
) -> Any:
    """Prompts with their images and audio, as :meth:`CompiledImageTextToText.encode` takes them.

    Raises:
        OptionError: they and the prompts do not fit together.
    """
    texts = [prompts] if _is_one(prompts) else prompts
    if isinstance(texts, list | tuple):
        texts = [_with_known_parts(text) for text in texts]
    if images is None and audio is None and processor is None and not _names_or_leaves_places(texts):
        return prompts
    if isinstance(prompts, Mapping) or not isinstance(texts, list | tuple):
        raise OptionError("images and audio go with texts or chats; a processor's output has them already.")
    pictures, clips = _of_each("image", texts, images), _of_each("audio", texts, audio)
    for index, text in enumerate(texts):
        _check_parts(index, text, "image", len(pictures[index]))
        _check_parts(index, text, "audio", len(clips[index]))
    return Pictured(texts, pictures, processor, clips)


def _names_or_leaves_places(texts: object) -> bool:
    return isinstance(texts, list | tuple) and any(_parts(text, each) for text in texts for each in _NAMES)


def _check_parts(index: int, prompt: Any, modality: str, number: int) -> None:
    """
    Raises:
        OptionError: a chat has other places for media than there are. Some templates and processors pass over those
            that are left, and the answer would be to another question.
    """
    parts = _parts(prompt, modality)
    if parts and len(parts) != number:
        many = {"image": "images", "audio": "audio"}[modality]
        raise OptionError(
            f"Prompt {index} has {len(parts)} part(s) of the type '{modality}', and {number} {many} to go there: write "
            f'{{"type": "{modality}", "path": ...}}, or pass {many}=... with one for each.'
        )


def names_media(prompts: object) -> bool:
    """Whether messages of chats name images or audio."""
    texts = [prompts] if _is_one(prompts) else prompts
    return isinstance(texts, list | tuple) and any(bool(_named(text, each)) for text in texts for each in _NAMES)


_NAMES = {"image": ("image", "path", "url", "base64"), "audio": ("audio", "path", "url")}
"""What the messages of a chat call an image or a clip, by modality."""
_PARTS = ("text", *_NAMES)


def _with_known_parts(prompt: Any) -> Any:
    """A chat whose parts are of types that are read; OpenAI's ``image_url`` becomes an image.

    Raises:
        OptionError: a part is of another type.
    """
    if not isinstance(prompt, list):
        return prompt
    return [
        {**message, "content": [_known_part(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        else message
        for message in prompt
    ]


def _known_part(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") in _PARTS:
        return part
    if part.get("type") == "image_url":
        address = part.get("image_url")
        return {"type": "image", "url": address.get("url") if isinstance(address, Mapping) else address}
    raise OptionError(
        f"A message has a part of type {part.get('type')!r}.{nearest(str(part.get('type')), _PARTS)} "
        f"Known: {', '.join(_PARTS)}, image_url."
    )


def _of_each(modality: str, texts: Sequence[Any], media: Any) -> list[list[Any]]:
    """The media of each prompt; those that its chat names, where none are passed."""
    if media is None:
        return [_named(text, modality) for text in texts]
    if named := [each for text in texts for each in _named(text, modality)]:
        said = f"{named[0]!r:.100}"
        raise OptionError(f"A chat names its {modality} ({said}), and others are passed beside it: choose one.")
    passed = media if isinstance(media, list | tuple) and not _is_samples(media) else [media]  # else a single one
    name = {"image": "images", "audio": "audio"}[modality]
    if len(texts) == 1:
        if len(passed) > 1 and any(isinstance(each, list | tuple) and not _is_samples(each) for each in passed):
            raise OptionError(f"{name} has {len(passed)} lists for one prompt: pass one list, or a prompt for each.")
        is_listed = len(passed) == 1 and isinstance(passed[0], list | tuple) and not _is_samples(passed[0])
        lists = [[*passed[0]] if is_listed else [*passed]]
    else:
        lists = [[*each] if isinstance(each, list | tuple) and not _is_samples(each) else [each] for each in passed]
    if len(lists) != len(texts):
        raise OptionError(
            f"There are {len(lists)} {name} for {len(texts)} prompts, expected an entry for each prompt; one of "
            f"several {name}, or of none, is a list ({name}=[[first, second], []])."
        )
    return lists


def _is_samples(media: Sequence[Any]) -> bool:
    return bool(media) and all(isinstance(value, int | float) for value in media)


def _is_one(prompts: Any) -> bool:
    return isinstance(prompts, str) or (
        isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], Mapping) and "role" in prompts[0]
    )


def _named(prompt: Any, modality: str) -> list[Any]:
    """The media that the messages of a chat name: ``{"type": "image", "image": …}``, or ``path`` or ``url``."""
    named = [[part.get(name) for name in _NAMES[modality]] for part in _parts(prompt, modality)]
    return [
        next(value for value in values if value is not None) for values in named if any(v is not None for v in values)
    ]


def _parts(prompt: Any, modality: str) -> list[Mapping[str, Any]]:
    """What the messages of a chat have of a modality."""
    if not isinstance(prompt, list):
        return []
    contents = [message.get("content") for message in prompt if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)]
    return [part for part in parts if part.get("type") == modality]


def open_audio(clips: Sequence[AudioInput], processor: ProcessorMixin) -> list[np.ndarray]:
    """Samples of each clip at the rate of ``processor``, checked.

    Raises:
        OptionError: one is not audio, or the processor takes none.
        CapacityError: one is empty or too long.
    """
    from QEfficient.processing.processor import sampling_rate

    rate = sampling_rate(processor)
    if clips and rate is None:
        raise OptionError(f"{type(processor).__name__} takes no audio.")
    longest = MAX_SECONDS * (rate or 0)
    return [load_heard_audio(clip, rate or 0, longest, f"Audio {at}") for at, clip in enumerate(clips)]
