"""A checkpoint's processor: texts and images to a model's inputs, by transformers' code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def process(processor: ProcessorMixin, prompt: str | Sequence[Mapping[str, Any]], images: Sequence[Picture]) -> Batch:
    """The inputs of one prompt with its images.

    Args:
        processor: of transformers.
        prompt: a text or a chat. A text without the processor's placeholders gets one for each image: by the chat
            template, where there is one, else in front.
        images: in the order of their placeholders, as of :func:`open_images`.

    Raises:
        OptionError: the processor refuses them, or there are more images than placeholders or fewer.
    """
    opened = open_images(images)
    with _refusals():
        text = _text(processor, prompt, len(opened))
        passed: dict[str, Any] = {"images": opened} if opened else {}
        if _begins_twice(processor, text):
            passed["add_special_tokens"] = False
        batch = processor(text=[text], return_tensors="pt", **passed)
        return {name: _in_float32(value) for name, value in batch.items()}


def process_images(processor: ProcessorMixin, images: Sequence[Picture]) -> Batch:
    """The inputs of images without a text.

    Args:
        processor: of transformers; one for images alone works as well.
        images: as of :func:`open_images`.

    Raises:
        OptionError: the processor refuses them, or something is no image.
        CapacityError: an image is too large, or too small to be seen.
    """
    opened = open_images(images)
    with _refusals("these images"):
        return {name: _in_float32(value) for name, value in processor(images=opened, return_tensors="pt").items()}


def _in_float32(value: Any) -> Any:
    """Some processors make the images' numbers bfloat16, which NumPy does not have."""
    return value.float() if getattr(value, "is_floating_point", bool)() else value


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


def _text(processor: ProcessorMixin, prompt: str | Sequence[Mapping[str, Any]], num_images: int) -> str:
    template = getattr(processor, "chat_template", None)
    if isinstance(prompt, str):
        tokens = placeholder_tokens(processor)
        if not num_images or any(token in prompt for token in tokens):
            _check_count(prompt, tokens, num_images)
            return prompt
        if template is None:
            return "".join(tokens[:1]) * num_images + prompt
        images = [{"type": "image"}] * num_images
        prompt = [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]
    if template is None:
        raise OptionError("This checkpoint has no chat template: give the prompt as text, not as messages.")
    rendered: str = processor.tokenizer.apply_chat_template(
        [*map(dict, prompt)], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    return rendered


def placeholder_tokens(processor: ProcessorMixin) -> list[str]:
    """What stands for an image in a text; the first is the one to write."""
    names = ("boi_token", "image_token", "fake_image_token")
    tokens = [getattr(processor, name, None) for name in names]
    return [str(token) for token in tokens if isinstance(token, str) and token]


def _check_count(text: str, tokens: Sequence[str], num_images: int) -> None:
    """
    Raises:
        OptionError: images and placeholders differ in number.
    """
    counts = [text.count(token) for token in tokens]
    if counts and num_images not in counts and any(counts):
        raise OptionError(
            f"The prompt has {max(counts)} placeholder(s) for images ({tokens[0]}), and {num_images} image(s) were "
            "passed."
        )


def _begins_twice(processor: ProcessorMixin, text: str) -> bool:
    """Whether a text already begins with the token that the tokenizer would put in front."""
    token = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    return isinstance(token, str) and bool(token) and text.startswith(token)
