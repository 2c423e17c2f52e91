"""Tiny random checkpoints of models that give a vector for each token of a query or of an image, with processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import image_text_models
from image_text import processors
from image_text.tokenizers import tokenizer_of

TYPES = {"colpali": ("ColPali", "paligemma"), "colqwen2": ("ColQwen2", "qwen2_vl")}
"""Names of the classes, and the type of the model inside."""


def make(model_type: str, folder: Path) -> Path:
    """Write a checkpoint of random weights with its processor into ``folder``."""
    import torch
    import transformers

    name, inside = TYPES[model_type]
    recipe = image_text_models.RECIPES[inside]
    tokenizer = tokenizer_of(recipe)
    parts: dict[str, Any] = {
        "image_processor": processors.tiny_processor(inside, recipe, tokenizer).image_processor,
        "tokenizer": tokenizer,
    }
    if model_type == "colqwen2":
        parts["visual_prompt_prefix"] = f"{recipe.image}Describe the image."
    processor = getattr(transformers, f"{name}Processor")(**parts)
    config = image_text_models.tiny_config(inside, processor.tokenizer)
    torch.manual_seed(0)
    whole = getattr(transformers, f"{name}Config")(vlm_config=config.to_dict(), embedding_dim=16)
    getattr(transformers, f"{name}ForRetrieval")._from_config(whole, dtype=torch.float32).save_pretrained(folder)
    processors.save(processor, folder)
    return folder


def reference(folder: Path, queries: list[str], pictures: list[Any]) -> tuple[list[Any], list[Any], Any]:
    """Hugging Face's vectors of each query and each image, and the scores of their pairs."""
    import torch
    import transformers

    name, _ = TYPES[image_text_models.model_type_of(folder)]
    model = getattr(transformers, f"{name}ForRetrieval").from_pretrained(folder, dtype=torch.float32).eval()
    processor = processors.load(folder)
    with torch.no_grad():
        asked = [model(**processor.process_queries(text=[query])).embeddings[0] for query in queries]
        shown = [model(**processor.process_images(images=[picture])).embeddings[0] for picture in pictures]
    scores = torch.cat([processor.score_retrieval([each], shown) for each in asked])
    return [each.numpy() for each in asked], [each.numpy() for each in shown], scores.numpy()
