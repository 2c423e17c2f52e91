"""Prints what tiny image-text checkpoints are like: a row for each model type."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import image_text_models as kit
from image_text import processors

_TEXT = "Describe this image."
_NUM_TOKENS = 12
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError)
_COLUMNS = (
    "model type | classes | made | AutoProcessor without torchvision | image tokens | inputs | greedy tokens, their "
    "smallest margin | largest difference of logits between two images | another size | no image | two images"
)


def main() -> None:
    """Make the model types of the command line, or all of them, and print a row for each."""
    import transformers

    parser = argparse.ArgumentParser(prog="image_text_models", description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; all of them where none is said")
    types = parser.parse_args().types or kit.MODEL_TYPES
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(_COLUMNS)
    for model_type in types:
        if model_type in kit.SKIPPED:
            print(f"{model_type} | skipped: {kit.SKIPPED[model_type]}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(" | ".join([model_type, *_cells(model_type, Path(folder))]), flush=True)


def _cells(model_type: str, folder: Path) -> list[str]:
    """Cells about one checkpoint, which is made in ``folder``."""
    began = time.perf_counter()
    kit.make(model_type, folder)
    seconds = time.perf_counter() - began
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    processor, model = processors.load(folder), kit.model(folder)
    classes = [type(part).__name__ for part in (model, processor, processor.image_processor)]
    inputs = kit.inputs(folder, _TEXT, kit.images(kit.SIZES[0]))
    tokens, margin, logits = greedy(model, inputs)
    _, _, others = greedy(model, kit.inputs(folder, _TEXT, kit.images(kit.SIZES[0], seed=1)))
    shapes = [f"{name}{list(getattr(value, 'shape', []))}" for name, value in inputs.items()]
    return [
        ", ".join(classes),
        f"{seconds:.1f} s, {num_bytes / 1e6:.1f} MB",
        "loads" if processors.loads_alone(folder) else "does not load",
        str(num_image_tokens(model.config, inputs)),
        ", ".join(shapes),
        f"{tokens}, {margin:.3f}",
        f"{(logits - others).abs().max():.2f}",
        *(_answer(model, folder, pictures) for pictures in _others(model_type)),
    ]


def _others(model_type: str) -> list[list[Any] | None]:
    """Images of other prompts: of another size, none, two; None where the model takes only one."""
    several = kit.RECIPES[model_type].max_images > 1
    return [kit.images(kit.SIZES[1]), [], kit.images(*kit.SIZES[1:]) if several else None]


def _answer(model: Any, folder: Path, pictures: list[Any] | None) -> str:
    if pictures is None:
        return "takes one"
    try:
        greedy(model, kit.inputs(folder, _TEXT, pictures))
    except _ERRORS as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    return "works"


def num_image_tokens(config: Any, inputs: dict[str, Any]) -> int | None:
    """Tokens of a prompt that stand for parts of images, where the config names their id."""
    names = ("image_token_id", "image_token_index", "image_patch_id")
    token = next((number for name in names if isinstance(number := getattr(config, name, None), int)), None)
    return int((inputs["input_ids"] == token).sum()) if token is not None and "input_ids" in inputs else None


def greedy(model: Any, inputs: dict[str, Any]) -> tuple[list[int], float, Any]:
    """Greedy tokens, the smallest margin between the two best, and the logits of the first of them."""
    import torch

    with torch.no_grad():
        options = {"do_sample": False, "min_new_tokens": _NUM_TOKENS, "max_new_tokens": _NUM_TOKENS}
        result = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    best = torch.stack([scores[0].topk(2).values for scores in result.logits])
    tokens = result.sequences[0, -_NUM_TOKENS:].tolist()
    return tokens, float((best[:, 0] - best[:, 1]).min()), result.logits[0][0]
