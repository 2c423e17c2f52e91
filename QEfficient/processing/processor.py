"""A checkpoint's processor: texts, images and audio to a model's inputs, by transformers' code."""

from __future__ import annotations

import base64
import inspect
import io
import json
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import CorruptArtifact, LifecycleError, OptionError
from QEfficient.processing.images import Picture, open_images

if TYPE_CHECKING:
    from transformers import ProcessorMixin

FOLDER = "processor"
"""In a package."""
Batch = dict[str, Any]
"""A processor's output: tensors by name."""


def open_processor(folder: Path, trust_remote_code: bool = False) -> Any:
    """The processor in a folder; without its videos' part, where that needs a package that is not installed.

    Raises:
        LifecycleError: a package that it needs is not installed.
        CorruptArtifact: it cannot be used.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        try:
            return _without_videos(folder)
        except ImportError as second:
            said = " ".join(str(second).split())[:300]
            raise LifecycleError(f"The processor in {folder} needs a package that is not installed: {said}") from second
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            said = " ".join(str(error).split())[:300]
            raise CorruptArtifact(f"The processor in {folder} cannot be opened: {said}") from error


def _without_videos(folder: Path) -> Any:
    """A processor for images alone: transformers refuses the whole one where torchvision is missing, which only its
    videos need."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    values = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    whole = getattr(transformers, values["processor_class"])
    if getattr(whole, "is_dummy", False):
        whole.from_pretrained(folder)  # says what is missing
    names = whole.get_attributes()
    parts: dict[str, Any] = dict.fromkeys(names)
    for name in names:
        if name == "image_processor":
            parts[name] = AutoImageProcessor.from_pretrained(folder)
        elif name.endswith("tokenizer"):
            parts[name] = AutoTokenizer.from_pretrained(folder if name == "tokenizer" else folder / name)
    options = {name: value for name, value in values.items() if name not in (*names, "processor_class", "auto_map")}
    processor = _without_checks(whole)(**parts, **options)
    template = folder / "chat_template.jinja"
    if template.is_file():
        processor.chat_template = template.read_text(encoding="utf-8")
    return processor


def _without_checks(whole: Any) -> Any:
    """A processor's class that takes None for the parts that are not images' or texts'."""

    class ImagesOnly(whole):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(None) if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    # transformers reads which parts there are from a class's name and signature.
    for name in ("__name__", "get_attributes", "__init__"):
        setattr(ImagesOnly, name, getattr(whole, name))
    return ImagesOnly


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Write a processor, with the parts that it has, so that :func:`open_processor` reads it."""
    if not hasattr(processor, "get_attributes"):  # it is for images alone
        processor.save_pretrained(folder)
        return
    for name in processor.get_attributes():
        part: Any = getattr(processor, name, None)
        if hasattr(part, "save_pretrained"):
            if name == "tokenizer":
                part._set_processor_class(type(processor).__name__)
            is_second = name.endswith("_tokenizer")
            part.save_pretrained(folder / name if is_second else folder)
    processor.to_json_file(folder / "processor_config.json")
    if processor.chat_template is not None:
        (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")


def has_processor(folder: Path) -> bool:
    """Whether a checkpoint or a package has one in ``folder``."""
    return any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))


def process(
    processor: ProcessorMixin,
    prompt: str | Sequence[Mapping[str, Any]],
    images: Sequence[Picture],
    audio: Sequence[np.ndarray] = (),
) -> Batch:
    """The inputs of one prompt with its images and audio.

    Args:
        processor: of transformers.
        prompt: a text or a chat. A text without the processor's placeholders gets one for each image: by the chat
            template, where there is one, else by the processor, or in front where it leaves that to its caller.
        images: in the order of their placeholders, as of :func:`open_images`.
        audio: likewise; samples of each clip at :func:`sampling_rate`.

    Raises:
        OptionError: the processor refuses them, or there are more images than placeholders or fewer.
    """
    opened, clips = open_images(images), [*audio]
    with _refusals():
        if clips and not _takes(processor, "audio"):
            return _as_batch(_by_chat(processor, prompt, clips))
        if not takes_text(processor):
            if prompt:
                raise ValueError(f"{type(processor).__name__} takes no text: give an empty prompt")
            return _as_batch(processor(**({"audio": clips} if clips else {"images": opened}), return_tensors="pt"))
        if opened and isinstance(prompt, str) and getattr(processor, "chat_template", None) is None:
            placed = _placed(processor, prompt, opened, clips)
            if placed is not None:
                return placed
        return _read(processor, _text(processor, prompt, {"image": len(opened), "audio": len(clips)}), opened, clips)


def process_audio(processor: ProcessorMixin, clips: Sequence[np.ndarray]) -> Batch:
    """The inputs of clips without a text.

    Args:
        processor: of transformers.
        clips: samples of each at :func:`sampling_rate`.

    Raises:
        OptionError: the processor refuses them.
    """
    with _refusals("this audio"):
        return _as_batch(processor(audio=[*clips], return_tensors="pt"))


def _read(processor: ProcessorMixin, text: str, images: Sequence[Any], audio: Sequence[np.ndarray] = ()) -> Batch:
    """The processor's output for a text as it is."""
    passed: dict[str, Any] = ({"images": images} if images else {}) | ({"audio": audio} if audio else {})
    if _begins_twice(processor, text):
        passed["add_special_tokens"] = False
    if not audio and _needs(processor, "audio"):
        passed["audio"] = None
    return _as_batch(processor(text=[text], return_tensors="pt", **passed))


def _placed(processor: ProcessorMixin, text: str, images: Sequence[Any], clips: Sequence[np.ndarray]) -> Batch | None:
    """The inputs of a text in which the processor itself finds a place for images; None where it does not."""
    try:
        batch = _read(processor, text, images, clips)
    except ValueError:
        return None
    tokens = placeholder_tokens(processor)
    known = {*processor.tokenizer.convert_tokens_to_ids(tokens)}
    return batch if not tokens or known & {*batch["input_ids"].reshape(-1).tolist()} else None


def _as_batch(encoding: Mapping[str, Any]) -> Batch:
    """A processor's output, in float32: some make bfloat16, which NumPy does not have."""
    return {n: v.float() if getattr(v, "is_floating_point", bool)() else v for n, v in encoding.items()}


def takes_text(processor: ProcessorMixin) -> bool:
    """Whether it takes text beside images or audio."""
    return _takes(processor, "text")


def _takes(processor: ProcessorMixin, name: str) -> bool:
    return name in inspect.signature(processor.__call__).parameters


def _needs(processor: ProcessorMixin, name: str) -> bool:
    parameter = inspect.signature(processor.__call__).parameters.get(name)
    return parameter is not None and parameter.default is inspect.Parameter.empty


def sampling_rate(processor: ProcessorMixin) -> int | None:
    """Samples a second of the audio that a processor takes; None: it takes none."""
    readers = [getattr(processor, name, None) for name in ("feature_extractor", "audio_processor")]
    rates = [getattr(reader, "sampling_rate", None) for reader in readers]
    return next((rate for rate in rates if isinstance(rate, int)), None)


def sounding(processor: ProcessorMixin, text: str, num_clips: int) -> str:
    """``text`` after placeholders for clips, for a processor that takes them in texts; "" for one that takes none."""
    if not _takes(processor, "text") and _takes(processor, "audio"):
        return ""
    tokens = placeholder_tokens(processor, "audio") if _takes(processor, "audio") else []
    return "".join(tokens) * num_clips + text


def transcription(processor: ProcessorMixin, samples: np.ndarray, language: str | None = None) -> Batch:
    """The inputs that ask for the words of a clip, by the processor's request.

    Args:
        processor: of transformers.
        samples: of the clip, at :func:`sampling_rate`.
        language: of the clip; None: the model says it.

    Raises:
        OptionError: the processor has no such request, or it takes no language.
    """
    request: Any = getattr(processor, "apply_transcription_request", None)
    is_all_it_does = not _takes(processor, "text")
    if request is None and not is_all_it_does:
        raise OptionError(
            f"{type(processor).__name__} has no prompt that asks for a transcription: say what to do with the audio as "
            "prompt."
        )
    taken = set() if request is None else set(inspect.signature(request).parameters)
    if language is not None and "language" not in taken:
        raise OptionError(f"{type(processor).__name__} takes no language.")
    if request is None:
        return process(processor, "", (), [samples])
    known = {
        "language": language,
        "model_id": getattr(processor.tokenizer, "name_or_path", None),
        "format": "wav",
        "sampling_rate": sampling_rate(processor),
    }
    passed = {name: value for name, value in known.items() if name in taken and value is not None}
    with _refusals():
        return _as_batch(request([samples], **passed))


def _by_chat(processor: ProcessorMixin, prompt: str | Sequence[Mapping[str, Any]], clips: list[np.ndarray]) -> Any:
    """The inputs of a chat, for a processor that takes audio in chats alone: as WAV files in base64."""
    rate, contents = sampling_rate(processor) or 0, [{"type": "audio", "base64": ""} for _ in clips]
    chat: list[dict[str, Any]]
    if isinstance(prompt, str):
        chat = [{"role": "user", "content": [*contents, *([{"type": "text", "text": prompt}] if prompt else [])]}]
    else:
        chat = [dict(message) for message in prompt]
        for message in chat:
            if isinstance(message.get("content"), list):
                message["content"] = [_unread(part) for part in message["content"]]
    parts: list[Any] = [part for message in chat for part in message["content"] if _is_audio(part)]
    _check_number("audio", len(parts), len(clips), "in the chat")
    for part, samples in zip(parts, clips, strict=True):
        part["base64"] = _wav_in_base64(samples, rate)
    return processor.apply_chat_template(chat)


def _is_audio(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "audio"


def _unread(part: Any) -> Any:
    return {"type": "audio", "base64": ""} if _is_audio(part) else part


def _wav_in_base64(samples: np.ndarray, rate: int) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples.clip(-1, 1) * (2**15 - 1)).astype("<i2").tobytes())
    return base64.b64encode(buffer.getvalue()).decode()


def process_images(processor: ProcessorMixin, images: Sequence[Picture]) -> Batch:
    """The inputs of images without a text.

    Args:
        processor: of transformers; one for images alone works as well.
        images: as of :func:`open_images`.

    Raises:
        OptionError: the processor refuses them, or something is not an image.
        CapacityError: an image is too large, or too small to be seen.
    """
    opened = open_images(images)
    with _refusals("these images"):
        return _as_batch(processor(images=opened, return_tensors="pt"))


@contextmanager
def _refusals(what: str = "this prompt") -> Iterator[None]:
    """Report what a processor raises over its inputs."""
    try:
        yield
    except ImportError as error:
        said = " ".join(str(error).split())[:300]
        raise LifecycleError(f"The processor needs a package that is not installed: {said}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise OptionError(f"The processor refuses {what}: {' '.join(str(error).split())[:300]}") from error


def _text(processor: ProcessorMixin, prompt: str | Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    """The text of a prompt with placeholders; ``counts``: how many media of each modality it has."""
    template = getattr(processor, "chat_template", None)
    if not isinstance(prompt, str):
        if template is None:
            raise OptionError("This checkpoint has no chat template: give the prompt as text, not as messages.")
        text = _rendered(processor, prompt)
        for modality, count in counts.items():
            _check_places(text, placeholder_tokens(processor, modality), modality, count)
        return text
    tokens = {modality: placeholder_tokens(processor, modality) for modality in counts}
    if not any(counts.values()) or any(token in prompt for names in tokens.values() for token in names):
        for modality, count in counts.items():
            _check_count(prompt, tokens[modality], modality, count)
        return prompt
    in_front = "".join("".join(tokens[modality][:1]) * count for modality, count in counts.items()) + prompt
    if template is None:
        return in_front
    media = [{"type": modality} for modality, count in counts.items() for _ in range(count)]
    text = _rendered(processor, [{"role": "user", "content": [*media, {"type": "text", "text": prompt}]}])
    if not counts["audio"] or not tokens["audio"] or any(token in text for token in tokens["audio"]):
        return text
    text = _rendered(processor, [{"role": "user", "content": in_front}])  # of a template that knows texts alone
    if not any(token in text for token in tokens["audio"]):
        raise OptionError(f"The chat template has no place for audio: write {tokens['audio'][0]} into the prompt.")
    return text


def _rendered(processor: ProcessorMixin, chat: Sequence[Mapping[str, Any]]) -> str:
    rendered: str = processor.tokenizer.apply_chat_template(
        [*map(dict, chat)], chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
    )
    return rendered


_TOKENS = {"image": ("boi_token", "image_token", "fake_image_token"), "audio": ("audio_token",)}


def placeholder_tokens(processor: ProcessorMixin, modality: str = "image") -> list[str]:
    """What stands for an image or a clip in a text; the first is the one to write."""
    tokens = [getattr(processor, name, None) for name in _TOKENS[modality]]
    return [str(token) for token in tokens if isinstance(token, str) and token]


def _check_places(text: str, tokens: Sequence[str], modality: str, number: int) -> None:
    """
    Raises:
        OptionError: a chat has no place for the media that are passed with it.
    """
    if number and tokens and not any(token in text for token in tokens):
        raise OptionError(
            f"The chat has no place for {number} {'image' if modality == 'image' else 'clip'}(s): write "
            f'{{"type": "{modality}"}} into the content of the message that it belongs to, a list of parts.'
        )


def _check_count(text: str, tokens: Sequence[str], modality: str, number: int) -> None:
    """
    Raises:
        OptionError: images and placeholders differ in number.
    """
    counts = [text.count(token) for token in tokens]
    if any(counts) and number not in counts:
        _check_number(modality, max(counts), number, tokens[0])


def _check_number(modality: str, num_placeholders: int, number: int, where: str) -> None:
    if num_placeholders != number:
        many = {"image": "images", "audio": "audio"}[modality]
        raise OptionError(
            f"The prompt has {num_placeholders} placeholder(s) for {many} ({where}), and {number} "
            f"{'image' if modality == 'image' else 'clip'}(s) were passed."
        )


def _begins_twice(processor: ProcessorMixin, text: str) -> bool:
    """Whether a text already begins with the token that the tokenizer would put in front."""
    token = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    return isinstance(token, str) and bool(token) and text.startswith(token)
