"""Models that attend to images in cross-attention layers: the greedy tokens of Hugging Face, batched and alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import image_text_models
import pytest
from image_text.pictures import images
from image_text.processors import load as load_processor

import QEfficient
from QEfficient import QEFFAutoModelForImageTextToText
from QEfficient.errors import CapacityError, OptionError

pytestmark = pytest.mark.xdist_group("cross_media")  # one worker makes its models
NUM_NEW_TOKENS = 6
SMALL, WIDE = (56, 56), (112, 56)
PROMPTS = {"text": (), "one image": (WIDE,), "two images": (WIDE, SMALL)}


TYPES = ("mllama", "idefics")
"""Layers that keep keys and values of images, which have tiles; states of images that are kept for all layers."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def folder(model_type: str) -> Path:
        return image_text_models.make(model_type, root / model_type)

    return folder


@pytest.fixture(scope="module")
def compiled(folders: Any) -> Any:
    @cache
    def model(model_type: str) -> Any:
        folder = folders(model_type)
        loaded = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))
        loaded.compile(target="cpu", ctx_len=64, max_num_images=2, precision="fp32")
        return loaded

    return model


def case(folder: Path, name: str) -> tuple[dict[str, Any], list[int]]:
    """The processor's output for a prompt, and Hugging Face's answer."""
    inputs = image_text_models.inputs(folder, "what is it", images(*PROMPTS[name]))
    return inputs, image_text_models.reference(folder, dict(inputs), NUM_NEW_TOKENS)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_batch_that_mixes_images_and_text_answers_as_each_alone(model_type: str, folders: Any, compiled: Any) -> None:
    """In two slots, so that a prompt without images follows on one with them."""
    cases = [case(folders(model_type), name) for name in ("two images", "one image", "text", "two images", "text")]
    with QEfficient.from_package(compiled(model_type).qpc_path, full_batch_size=2) as package:
        prompts = [prompt for inputs, _ in cases for prompt in package.encode(inputs)]
        requests = [package._request(i, prompt, NUM_NEW_TOKENS, {}) for i, prompt in enumerate(prompts)]
        answers: list[list[int]] = [[] for _ in requests]
        for token in package.engine.run(requests):
            answers[token.index].append(token.token_id)
    assert answers == [expected for _, expected in cases]


def test_the_processor_of_the_package_reads_images(compiled: Any) -> None:
    pictures = images(WIDE, SMALL)
    model = compiled("mllama")
    together = model.generate(prompts=["one", "two"], images=[[pictures[0]], pictures], generation_len=3)
    alone = [
        model.generate(prompts="one", images=pictures[:1], generation_len=3),
        model.generate(prompts="two", images=pictures, generation_len=3),
    ]
    assert [ids.tolist() for ids in together.generated_ids] == [each.generated_ids[0].tolist() for each in alone]


@pytest.mark.parametrize("model_type", TYPES)
def test_verify_compares_states_and_tokens(model_type: str, folders: Any, compiled: Any) -> None:
    inputs, _ = case(folders(model_type), "two images")
    report = compiled(model_type).verify(inputs, generation_len=3)
    assert report.agrees
    assert 0 <= report.prompts[0].feature_errors["image"] < 1e-4


def test_what_is_kept_of_images(compiled: Any) -> None:
    specs = compiled("mllama").state_specs()
    assert [spec.kind for spec in specs] == ["full", "cross", "full"]
    assert specs[1].tensors[0].name == "past_key_cross"
    *layers, images_of_all = compiled("idefics").state_specs()
    assert {spec.kind for spec in layers} == {"full"}
    assert [tensor.name for tensor in images_of_all.tensors] == ["image_states"]


def test_images_are_counted(folders: Any, compiled: Any) -> None:
    model = compiled("mllama")
    with pytest.raises(CapacityError, match=r"has 3 images, .* compiled for 2 .*max_num_images=3"):
        model.generate(prompts="all", images=images(SMALL, SMALL, WIDE))
    inputs, _ = case(folders("mllama"), "one image")
    with pytest.raises(OptionError, match=r"1 placeholder\(s\) for images .* make 0 row\(s\)"):
        model.generate(inputs["input_ids"], generation_len=2)


def test_other_models_take_any_number_of_images(tmp_path: Path) -> None:
    folder = image_text_models.make("llava", tmp_path / "llava")
    model = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))
    with pytest.raises(OptionError, match="LlavaForConditionalGeneration takes as many images as ctx_len has room"):
        model.compile(target="cpu", max_num_images=2)
