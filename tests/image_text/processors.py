"""Processors of image-text models where torchvision is not installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_text import stand_in
from image_text.recipe import Recipe
from image_text.tokenizers import tiny_tokenizer

_BROKEN_OVER_PIL = {"FuyuImageProcessor"}
"""Image processors that transformers has over PIL, but calls as if they were over torch."""
_PARTS = ("image_processor", "tokenizer", "video_processor", "feature_extractor", "qformer_tokenizer")


def tiny_processor(model_type: str, recipe: Recipe, tokenizer: Any) -> Any:
    """A processor of the family's classes over ``tokenizer``, with the recipe's options."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    image_class = recipe.image_processor_class or _usual(IMAGE_PROCESSOR_MAPPING_NAMES[model_type])
    processor_class = class_of(recipe.processor_class or PROCESSOR_MAPPING_NAMES[model_type])
    makers = {
        "image_processor": lambda: stand_in.class_of(image_class)(**recipe.images),
        "tokenizer": lambda: tokenizer,
        "qformer_tokenizer": lambda: tiny_tokenizer({}),
        "feature_extractor": lambda: _feature_extractor(model_type),
        "video_processor": NoVideos,
    }
    parts = {name: makers[name]() for name in processor_class.get_attributes()}
    processor = processor_class(**parts, **recipe.processor)
    if recipe.chats:
        processor.chat_template = _chat_template(recipe.image)
    return processor


def _usual(names: Mapping[str, str]) -> str:
    """The image processor over PIL and numpy, where there is one."""
    return names.get("pil") or names["torchvision"]


def _feature_extractor(model_type: str) -> Any:
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    name = FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type.removesuffix("_thinker"))
    return name and getattr(transformers, name)()


def _chat_template(image: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def load(folder: Path) -> Any:
    """The processor of a checkpoint folder, as ``AutoProcessor`` loads it where torchvision is installed.

    Without, transformers has no video processor, refuses a processor without one, and has no image processor for some
    models; here the processor's own class runs without videos, over a stand-in for torchvision where it must.
    """
    values = json.loads((folder / "processor_config.json").read_text())
    processor_class = class_of(values["processor_class"])
    options = {name: value for name, value in values.items() if name not in (*_PARTS, "processor_class", "auto_map")}
    parts = {name: _part(name, folder, values) for name in processor_class.get_attributes()}
    processor = processor_class(**parts, **options)
    template = folder / "chat_template.jinja"
    if template.is_file():
        processor.chat_template = template.read_text()
    return processor


def _part(name: str, folder: Path, values: dict[str, Any]) -> Any:
    import transformers
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    if name == "tokenizer":
        return AutoTokenizer.from_pretrained(folder)
    if name.endswith("_tokenizer"):
        return AutoTokenizer.from_pretrained(folder / name)
    if name == "feature_extractor" and values.get(name):
        return AutoFeatureExtractor.from_pretrained(folder)
    if name == "video_processor":
        return NoVideos()
    if name != "image_processor":
        return None
    image_class = values[name]["image_processor_type"]
    if image_class in _BROKEN_OVER_PIL or getattr(getattr(transformers, image_class), "is_dummy", False):
        return stand_in.class_of(image_class)(**values[name])
    return AutoImageProcessor.from_pretrained(folder)


def loads_alone(folder: Path) -> bool:
    """Whether ``AutoProcessor`` loads it here, without torchvision."""
    from transformers import AutoProcessor

    try:
        AutoProcessor.from_pretrained(folder)
    except (ImportError, OSError, ValueError, AttributeError):
        return False
    return True


def class_of(name: str) -> Any:
    """The processor class ``name``, which takes ``None`` for the videos' processor."""
    whole = stand_in.class_of(name)
    module = sys.modules[whole.__module__]
    if getattr(module, "num2words", module) is None:
        module.num2words = str  # spells a number of video frames, and its class insists on it
    if not {"video_processor", "feature_extractor"} & set(whole.get_attributes()):
        return whole
    return type(name, (_WithoutVideos, whole), {"get_attributes": whole.get_attributes, "__init__": whole.__init__})


class NoVideos:
    """Stands where a processor has that of videos; a few read its options when they are built."""

    slice_mode = False
    downsample_mode = "4x"


class _WithoutVideos:
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument is None or isinstance(argument, NoVideos):
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()  # type: ignore[misc]
        return {name: value for name, value in values.items() if not isinstance(value, NoVideos)}


def save(processor: Any, folder: Path) -> None:
    """Write the processor's files, as ``save_pretrained`` does."""
    for name in processor.get_attributes():
        if name.endswith("tokenizer"):
            tokenizer = getattr(processor, name)
            tokenizer._set_processor_class(type(processor).__name__)
            tokenizer.save_pretrained(folder if name == "tokenizer" else folder / name)
    processor.to_json_file(folder / "processor_config.json")
    if processor.chat_template is not None:
        (folder / "chat_template.jinja").write_text(processor.chat_template)
