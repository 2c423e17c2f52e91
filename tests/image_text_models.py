"""Tiny random checkpoints of the image-text-to-text models that transformers ships, each with its real processor.

``python -m image_text_models [types…]``, with this folder on the path, makes them and prints what they are like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from architectures.sizes import OVERRIDES
from architectures.tiny import UNCACHED, merged, shrunk
from image_text import processors, recipes_fixed, recipes_grid, recipes_other, recipes_tiled, weights
from image_text.pictures import SIZES, images
from image_text.processors import load as load_processor
from image_text.recipe import Ids, Recipe
from image_text.tokenizers import tokenizer_of

_TABLES = (recipes_grid, recipes_fixed, recipes_tiled, recipes_other)
RECIPES: dict[str, Recipe] = {name: recipe for table in _TABLES for name, recipe in table.RECIPES.items()}
_TIMM = "its vision tower is a model of timm, which is not installed"
SKIPPED: dict[str, str] = {
    "fast_vlm": _TIMM,
    "gemma3n": _TIMM,
    "perception_lm": _TIMM,
    "evolla": "answers to proteins, not to images",
    "instructblipvideo": "answers to videos, not to images, and transformers' processors of videos need torchvision",
    "mistral4": "is a text model; images come to it through a mistral3 whose text model it is",
    "pi0": "answers with a robot's movements, not with text",
    "diffusion_gemma": "denoises a canvas of tokens: it has no greedy answer of one token after the other",
}
"""Model types that have no checkpoint here, with the fact that stops them."""
MODEL_TYPES: tuple[str, ...]

__all__ = ["MODEL_TYPES", "RECIPES", "SIZES", "SKIPPED"]
__all__ += ["images", "inputs", "load_processor", "make", "model", "reference"]


def __getattr__(name: str) -> Any:
    """All types of transformers' table, which is read when asked for."""
    if name != "MODEL_TYPES":
        raise AttributeError(name)
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def make(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of random weights with its processor into ``folder``; equal seeds give equal weights.

    Its generation config has no end token: greedy decoding goes on for as long as it is asked to. No token is
    forbidden, so that an answer may have tokens in it that stand for images in a prompt.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    recipe = RECIPES[model_type]
    tokenizer = tokenizer_of(recipe)
    processor = processors.tiny_processor(model_type, recipe, tokenizer)
    config = tiny_config(model_type, tokenizer)
    torch.manual_seed(seed)
    made = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    weights.draw(made, weights.SPREAD.get(model_type, {}), seed)
    start = config.decoder_start_token_id if config.is_encoder_decoder else None
    is_cached = config.get_text_config(decoder=True).model_type not in UNCACHED
    made.generation_config = GenerationConfig(
        use_cache=is_cached, pad_token_id=0, bos_token_id=1, decoder_start_token_id=start
    )
    made.save_pretrained(folder)
    if recipe.saved_prefix:
        weights.rename(folder / "model.safetensors", recipe.saved_prefix)
    processors.save(processor, folder)
    return folder


def tiny_config(model_type: str, tokenizer: Any) -> Any:
    """A small config whose special tokens and vocabulary are those of ``tokenizer``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    values = merged(shrunk(config_class()), OVERRIDES.get(model_type, {}))
    config = config_class(**merged(values, dict(RECIPES[model_type].config)))
    set_ids(config, RECIPES[model_type].ids, tokenizer)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = tokenizer.bos_token_id
    return config


_USUAL_IDS = {"pad_token_id": "<pad>", "bos_token_id": "<s>", "eos_token_id": "</s>"}


def set_ids(config: Any, ids: Mapping[str, Ids], tokenizer: Any) -> None:
    """Set the special tokens' ids and the vocabulary's size of a config, at any depth, to those of ``tokenizer``."""
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        tokens = ids.get(name, _USUAL_IDS.get(name))
        if isinstance(value, PreTrainedConfig):
            set_ids(value, ids, tokenizer)
        elif isinstance(tokens, Mapping):
            setattr(config, name, {token: tokenizer.convert_tokens_to_ids(token) for token in tokens})
        elif tokens is not None:
            numbers = tokenizer.convert_tokens_to_ids(tokens)
            setattr(config, name, numbers if isinstance(tokens, str) else tuple(numbers))
        elif name in ("vocab_size", "vocab_size_per_layer_input") and not _sees_or_hears(config):
            setattr(config, name, len(tokenizer))


def _sees_or_hears(config: Any) -> bool:
    return any(part in type(config).__name__ for part in ("Vision", "Audio", "VQ"))


def inputs(folder: Path, text: str, pictures: Sequence[Any] = ()) -> dict[str, Any]:
    """What the checkpoint's processor makes of a prompt: ``pictures``, then ``text``.

    Returns:
        Torch tensors of batch size 1, by the name of the model's argument.
    """
    recipe = RECIPES[model_type_of(folder)]
    processor = load_processor(folder)
    prompt = recipe.image * len(pictures) + text
    if recipe.chats:
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        prompt = processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
        )
    options: dict[str, Any] = {"images": list(pictures) or None, "return_tensors": "pt", **recipe.call}
    if recipe.reads:
        options["text"] = prompt
    if recipe.chats:
        options["add_special_tokens"] = False
    if recipe.boxes:
        words = text.split()
        boxes = [[100 * number, 50 * number, 100 * number + 90, 50 * number + 40] for number in range(len(words))]
        options |= {"text": words, "boxes": boxes}
    if recipe.nested:
        options |= {"text": [prompt], "images": [list(pictures)] if pictures else None}
    return {name: _float32(value) for name, value in processor(**options).items()}


def _float32(value: Any) -> Any:
    """Some processors make bfloat16."""
    return value.float() if getattr(value, "is_floating_point", bool)() else value


def model_type_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def max_images(folder: Path) -> int:
    """Images that one prompt of the checkpoint's can have."""
    return RECIPES[model_type_of(folder)].max_images


def compile_options(folder: Path) -> dict[str, Any]:
    """Options of ``compile`` without which the checkpoint's model does not take several images."""
    return dict(RECIPES[model_type_of(folder)].compiling)


def model(folder: Path) -> Any:
    """The checkpoint's model in float32."""
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def reference(folder: Path, inputs: Mapping[str, Any], num_tokens: int) -> list[int]:
    """Hugging Face's greedy answer of ``num_tokens`` tokens, in float32."""
    import torch

    with torch.no_grad():
        answer = model(folder).generate(**inputs, do_sample=False, min_new_tokens=num_tokens, max_new_tokens=num_tokens)
    return answer[0, -num_tokens:].tolist()


if __name__ == "__main__":
    from image_text.table import main

    main()
