"""A checkpoint's processor: texts and images to a model's inputs, in transformers' own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import CorruptArtifact, LifecycleError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "processor"
"""In a package."""
Batch = dict[str, Any]
"""A processor's output: tensors by name."""


def open_processor(folder: Path, trust_remote_code: bool = False) -> Any:
    """The processor in a folder.

    Raises:
        LifecycleError: a package that it needs is not installed.
        CorruptArtifact: it cannot be used.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except ImportError as error:
        said = " ".join(str(error).split())[:300]
        raise LifecycleError(f"The processor in {folder} needs a package that is not installed: {said}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptArtifact(f"The processor in {folder} cannot be opened: {' '.join(str(error).split())[:300]}") from error


def process(processor: Any, prompt: str | Sequence[Mapping[str, Any]], images: Sequence[Image]) -> Batch:
    """The inputs of one prompt with its images.

    Args:
        processor: of transformers.
        prompt: a text or a chat. A text without the processor's placeholders gets one for each image: by the chat
            template, where there is one, else in front.
        images: in the order of their placeholders.

    Raises:
        OptionError: the processor refuses them, or there are more images than placeholders or fewer.
    """
    with _refusals():
        text = _text(processor, prompt, len(images))
        if _puts_placeholders(processor) or not images:
            check_count(processor, text, len(images))
        passed = {"images": [*images]} if images else {}
        if isinstance(text, str) and getattr(processor, "bos_token", None) is None and _begins_twice(processor, text):
            passed["add_special_tokens"] = False
        return dict(processor(text=[text], return_tensors="pt", **passed))


@contextmanager
def _refusals() -> Iterator[None]:
    """Report what a processor raises over its inputs."""
    try:
        yield
    except ImportError as error:
        said = " ".join(str(error).split())[:300]
        raise LifecycleError(f"The processor needs a package that is not installed: {said}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise OptionError(f"The processor refuses this prompt: {' '.join(str(error).split())[:300]}") from error


def _text(processor: Any, prompt: str | Sequence[Mapping[str, Any]], num_images: int) -> str:
    has_template = getattr(processor, "chat_template", None) is not None
    if isinstance(prompt, str):
        if not num_images or any(token in prompt for token in placeholder_tokens(processor)):
            return prompt
        if not has_template:
            return "".join(placeholder_tokens(processor)[:1]) * num_images + prompt
        images = [{"type": "image"}] * num_images
        prompt = [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]
    if not has_template:
        raise OptionError("This checkpoint has no chat template: give the prompt as text, not as messages.")
    rendered: str = processor.apply_chat_template([*map(dict, prompt)], add_generation_prompt=True, tokenize=False)
    return rendered


def _puts_placeholders(processor: Any) -> bool:
    return bool(placeholder_tokens(processor))


def placeholder_tokens(processor: Any) -> list[str]:
    """What stands for an image in a text; the first is the one to write."""
    names = ("boi_token", "image_token", "fake_image_token")
    tokens = [getattr(processor, name, None) for name in names]
    return [str(token) for token in tokens if isinstance(token, str) and token]


def check_count(processor: Any, text: str, num_images: int) -> None:
    """
    Raises:
        OptionError: images and placeholders differ in number.
    """
    counts = [text.count(token) for token in placeholder_tokens(processor)]
    if counts and num_images not in counts and (any(counts) or num_images):
        raise OptionError(
            f"The prompt has {max(counts)} placeholder(s) for images ({placeholder_tokens(processor)[0]}), and "
            f"{num_images} image(s) were passed."
        )


def _begins_twice(processor: Any, text: str) -> bool:
    """Whether a text already begins with the token that the tokenizer would put in front."""
    token = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    return isinstance(token, str) and bool(token) and text.startswith(token)
