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


def main() -> None:
    """Make the model types of the command line, or all of them, and print a block for each."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for model_type in parser.parse_args().types or kit.MODEL_TYPES:
        if model_type in kit.SKIPPED:
            print(f"{model_type}: skipped, {kit.SKIPPED[model_type]}")
        elif model_type not in kit.RECIPES:
            print(f"{model_type}: no recipe")
        else:
            with tempfile.TemporaryDirectory() as folder:
                print("\n  ".join(rows(model_type, Path(folder))), flush=True)


def rows(model_type: str, folder: Path) -> list[str]:
    """Lines about one checkpoint, made in ``folder``."""
    began = time.perf_counter()
    kit.make(model_type, folder)
    seconds = time.perf_counter() - began
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    processor = processors.load(folder)
    loads = "loads" if processors.loads_alone(folder) else "does not load"
    model = kit.model(folder)
    lines = [
        f"{model_type}: {type(model).__name__}, made in {seconds:.1f} s, {num_bytes / 1e6:.1f} MB",
        f"{type(processor).__name__}, {type(processor.image_processor).__name__}: AutoProcessor {loads} it",
    ]
    first, second = (kit.images(*kit.SIZES[:1], seed=seed) for seed in (0, 1))
    lines += _answers(model, folder, {"one image": first, "another": second})
    for name, pictures in _others(model_type).items():
        lines += _answers(model, folder, {name: pictures})
    return lines


def _others(model_type: str) -> dict[str, list[Any]]:
    others = {"another size": kit.images(kit.SIZES[1]), "no image": []}
    if kit.RECIPES[model_type].max_images > 1:
        others["two images"] = kit.images(*kit.SIZES[1:])
    return others


def _answers(model: Any, folder: Path, prompts: dict[str, list[Any]]) -> list[str]:
    """What the model says to each prompt, and how far the logits of the prompts are apart."""
    lines, logits = [], []
    for name, pictures in prompts.items():
        try:
            inputs = kit.inputs(folder, _TEXT, pictures)
            tokens, margin, last = greedy(model, inputs)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError) as error:
            lines.append(f"{name}: {type(error).__name__}: {str(error)[:160]}")
            continue
        shapes = {key: tuple(getattr(value, "shape", ())) for key, value in inputs.items()}
        lines.append(f"{name}: {shapes}")
        lines.append(f"  {len(set(tokens))} tokens of {len(tokens)}, margin {margin:.3f}: {tokens}")
        logits.append(last)
    if len(logits) == 2:
        lines.append(f"logits of two images differ by {(logits[0] - logits[1]).abs().max():.2f}")
    return lines


def greedy(model: Any, inputs: dict[str, Any]) -> tuple[list[int], float, Any]:
    """Greedy tokens, the smallest margin between the two best, and the logits of the first of them."""
    import torch

    with torch.no_grad():
        options = {"do_sample": False, "min_new_tokens": _NUM_TOKENS, "max_new_tokens": _NUM_TOKENS}
        result = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    best = torch.stack([scores[0].topk(2).values for scores in result.logits])
    tokens = result.sequences[0, -_NUM_TOKENS:].tolist()
    return tokens, float((best[:, 0] - best[:, 1]).min()), result.logits[0][0]
