"""Tiny random checkpoints of models with a tower for texts and one for images, each with its real processor."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from architectures.tiny import tiny_config
from image_text import processors
from image_text.recipe import Recipe
from image_text.tokenizers import tiny_tokenizer

_SIDE = 32
_CROPPED = {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}}
_RESIZED = {"size": {"height": _SIDE, "width": _SIDE}}
IMAGES: dict[str, dict[str, Any]] = {
    "clip": _CROPPED,
    "siglip": _RESIZED,
    "siglip2": {"patch_size": 16, "max_num_patches": 16},
    "chinese_clip": _CROPPED,
    "metaclip_2": _CROPPED,
    "altclip": _CROPPED,
    "blip": _RESIZED,
    "aimv2": {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    "groupvit": _CROPPED,
    "clipseg": _RESIZED,
    "owlvit": _RESIZED,
}
"""Arguments of the image processor, by model type."""
UNMASKED = "siglip"
"""Its checkpoints' tokenizers make no attention mask: tokens attend to the padding."""
_CONFIGS: dict[str, dict[str, Any]] = {
    "aimv2": {"vision_config": {"image_size": 224}},
}
_SCALARS = {"logit_scale": 1.7, "logit_bias": -3.1, "temperature": 0.6}
TEXT_LEN = 24
"""Tokens that SigLIP's texts have."""


def make(model_type: str, folder: Path) -> Path:
    """Write a checkpoint of random weights with its processor into ``folder``."""
    import torch
    from transformers import AutoModel

    tokenizer = tiny_tokenizer({}, text="<s> $A </s>")
    config = _config(model_type, tokenizer)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters(recurse=False):
        parameter.data.fill_(_SCALARS.get(name, 0.0))
    model.save_pretrained(folder)
    recipe = Recipe(images=IMAGES[model_type], chats=False)
    processor = processors.tiny_processor(model_type, recipe, tokenizer)
    if model_type.startswith("siglip"):
        processor.tokenizer.model_max_length = TEXT_LEN
    processors.save(processor, folder)
    if model_type == UNMASKED:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids"]}))
    return folder


def _config(model_type: str, tokenizer: Any) -> Any:
    config = tiny_config("text_encoder", model_type)
    for name, value in _CONFIGS.get(model_type, {}).items():
        part = getattr(config, name)
        if isinstance(value, dict):
            for field, each in value.items():
                setattr(part, field, each)
        else:
            setattr(config, name, value)
    text = config.text_config
    text.vocab_size, text.pad_token_id, text.bos_token_id, text.eos_token_id = len(tokenizer), 0, 1, 2
    if model_type.startswith("siglip"):
        text.max_position_embeddings = TEXT_LEN
    return config


def inputs(folder: Path, texts: Sequence[str], pictures: Sequence[Any]) -> dict[str, Any]:
    """What the checkpoint's processor makes of texts and images, as its documentation calls it."""
    processor = processors.load(folder)
    length: dict[str, Any] = {"padding": True}
    if processor.tokenizer.model_max_length == TEXT_LEN:
        length = {"padding": "max_length", "max_length": TEXT_LEN}
    return dict(processor(text=list(texts), images=list(pictures), return_tensors="pt", **length))


def reference(folder: Path, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Hugging Face's vectors of texts, vectors of images and scores ``[images, texts]``, in float32."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        texts, images = (_called(method, batch) for method in (model.get_text_features, model.get_image_features))
        scores = model(**batch).logits_per_image
    return texts.pooler_output.numpy(), images.pooler_output.numpy(), scores.numpy()


def _called(method: Any, batch: dict[str, Any]) -> Any:
    return method(**{name: value for name, value in batch.items() if name in inspect.signature(method).parameters})
