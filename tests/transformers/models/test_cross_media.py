"""Models that attend to images in cross-attention layers: the greedy tokens of Hugging Face, batched and alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import image_text_models
import pytest
from image_text.pictures import images
from image_text.processors import load as load_processor

import QEfficient
from QEfficient import QEFFAutoModelForImageTextToText
from QEfficient.errors import CapacityError, OptionError

NUM_NEW_TOKENS = 6
SMALL, WIDE = (56, 56), (112, 56)
PROMPTS = {"text": (), "one image": (WIDE,), "two images": (WIDE, SMALL)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_text_models.make("mllama", tmp_path_factory.mktemp("checkpoints") / "mllama")


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Any:
    model = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))
    model.compile(target="cpu", ctx_len=64, max_num_images=2, precision="fp32")
    return model


def case(folder: Path, name: str) -> tuple[dict[str, Any], list[int]]:
    """The processor's output for a prompt, and Hugging Face's answer."""
    inputs = image_text_models.inputs(folder, "what is it", images(*PROMPTS[name]))
    return inputs, image_text_models.reference(folder, dict(inputs), NUM_NEW_TOKENS)


def test_a_batch_that_mixes_images_and_text_answers_as_each_alone(folder: Path, compiled: Any) -> None:
    """In two slots, so that a prompt without images follows on one with them."""
    cases = [case(folder, name) for name in ("two images", "one image", "text", "two images", "text")]
    with QEfficient.from_package(compiled.qpc_path, full_batch_size=2) as package:
        prompts = [prompt for inputs, _ in cases for prompt in package.encode(inputs)]
        requests = [package._request(i, prompt, NUM_NEW_TOKENS, {}) for i, prompt in enumerate(prompts)]
        answers: list[list[int]] = [[] for _ in requests]
        for token in package.engine.run(requests):
            answers[token.index].append(token.token_id)
    assert answers == [expected for _, expected in cases]


def test_the_processor_of_the_package_reads_images(compiled: Any) -> None:
    pictures = images(WIDE, SMALL)
    together = compiled.generate(prompts=["one", "two"], images=[[pictures[0]], pictures], generation_len=3)
    alone = [
        compiled.generate(prompts="one", images=pictures[:1], generation_len=3),
        compiled.generate(prompts="two", images=pictures, generation_len=3),
    ]
    assert [ids.tolist() for ids in together.generated_ids] == [each.generated_ids[0].tolist() for each in alone]


def test_verify_compares_states_and_tokens(folder: Path, compiled: Any) -> None:
    inputs, _ = case(folder, "two images")
    report = compiled.verify(inputs, generation_len=3)
    assert report.agrees
    assert 0 <= report.prompts[0].feature_errors["image"] < 1e-4


def test_keys_of_images_are_kept_by_the_layers_that_attend_to_them(compiled: Any) -> None:
    specs = compiled.state_specs()
    assert [spec.kind for spec in specs] == ["full", "cross", "full"]
    assert specs[1].tensors[0].name == "past_key_cross"


def test_images_are_counted(folder: Path, compiled: Any) -> None:
    with pytest.raises(CapacityError, match=r"has 3 images, .* compiled for 2 .*max_num_images=3"):
        compiled.generate(prompts="all", images=images(SMALL, SMALL, WIDE))
    inputs, _ = case(folder, "one image")
    with pytest.raises(OptionError, match=r"1 placeholder\(s\) for images .* make 0 row\(s\)"):
        compiled.generate(inputs["input_ids"], generation_len=2)


def test_other_models_take_any_number_of_images(tmp_path: Path) -> None:
    folder = image_text_models.make("llava", tmp_path / "llava")
    model = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))
    with pytest.raises(OptionError, match="LlavaForConditionalGeneration takes as many images as ctx_len has room"):
        model.compile(target="cpu", max_num_images=2)
