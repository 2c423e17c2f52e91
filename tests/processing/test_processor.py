"""A prompt's text and images as the processors of transformers take them."""

from __future__ import annotations

from typing import Any

import image_text_models as kit
import pytest
from image_text.pictures import images
from image_text.processors import tiny_processor
from image_text.tokenizers import tokenizer_of

from QEfficient.errors import OptionError
from QEfficient.processing.processor import process
from QEfficient.processing.samples import prompt_sample


def processor(model_type: str) -> Any:
    recipe = kit.RECIPES[model_type]
    made = tiny_processor(model_type, recipe, tokenizer_of(recipe))
    made.chat_template = None
    return made


@pytest.mark.parametrize("model_type", ["fuyu", "florence2", "kosmos-2", "paligemma"])
def test_a_processor_that_places_images_gets_the_text_as_it_is(model_type: str) -> None:
    reader, pictures = processor(model_type), images((56, 56))
    expected = reader(text=["what is it"], images=pictures, return_tensors="pt")["input_ids"]
    assert process(reader, "what is it", pictures)["input_ids"].tolist() == expected.tolist()


@pytest.mark.parametrize("model_type", ["llava", "got_ocr2"])
def test_another_gets_a_placeholder_for_each_image(model_type: str) -> None:
    """got_ocr2's takes a text without any, and then the model does not see the image."""
    reader, pictures = processor(model_type), images((56, 56))
    ids = process(reader, "what is it", pictures)["input_ids"]
    assert reader.tokenizer.convert_tokens_to_ids(reader.image_token) in ids


def test_a_processor_of_one_image_refuses_two() -> None:
    with pytest.raises(OptionError, match="refuses this prompt"):
        process(processor("florence2"), "what is it", images((56, 56), (56, 56)))


def test_a_processor_without_texts_reads_images_alone() -> None:
    reader, pictures = processor("pp_formulanet"), images((56, 56))
    expected = reader(images=pictures, return_tensors="pt")["pixel_values"]
    assert process(reader, "", pictures)["pixel_values"].equal(expected)
    assert prompt_sample(reader, "image", [(56, 56)]).keys() == {"pixel_values"}
    with pytest.raises(OptionError, match="PPFormulaNetProcessor takes no text: give an empty prompt"):
        process(reader, "what is it", pictures)
