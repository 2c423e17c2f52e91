"""The tiny image-text checkpoints that other tests run: each answers to its image, through its own processor."""

from __future__ import annotations

from pathlib import Path

import image_text_models as kit
import pytest
from image_text import processors

_TYPES = ("llava", "qwen2_vl", "mllama", "gemma3")
"""Images of one size, grids of patches, cross attention, attention both ways among an image's tokens."""


@pytest.fixture(scope="module", params=_TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make(request.param, tmp_path_factory.mktemp(request.param))


def test_answers_depend_on_the_image(folder: Path) -> None:
    prompts = [kit.inputs(folder, "What is it?", kit.images((56, 56), seed=seed)) for seed in range(3)]
    assert len({tuple(kit.reference(folder, prompt, 8)) for prompt in prompts}) == 3


@pytest.mark.parametrize("sizes", [(), ((70, 40),), ((56, 56), (40, 60))])
def test_prompts_have_any_number_of_images(folder: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    inputs = kit.inputs(folder, "What is it?", kit.images(*sizes))
    assert len(kit.reference(folder, inputs, 4)) == 4
    assert ("pixel_values" in inputs) == bool(sizes)


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, second, other = (
        kit.make("llava", tmp_path / name, seed) / "model.safetensors" for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_processor_is_the_one_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    folder = kit.make("llava", tmp_path)
    ours, theirs = processors.load(folder), AutoProcessor.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.to_dict() == theirs.to_dict()
    assert ours.chat_template == theirs.chat_template


def test_every_model_type_has_a_recipe_or_a_reason() -> None:
    assert sorted([*kit.RECIPES, *kit.SKIPPED]) == sorted(kit.MODEL_TYPES)
