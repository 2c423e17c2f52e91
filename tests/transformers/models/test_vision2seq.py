"""Encoders that see and their decoders: the greedy tokens of Hugging Face, from prompts with images and without."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import image_text_models
import numpy as np
import pytest
import torch
from image_text.pictures import images
from image_text.processors import load as load_processor

import QEfficient
from QEfficient import QEFFAutoModelForImageTextToText, QEFFAutoModelForVision2Seq
from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.tasks import auto_class_for_config

pytestmark = pytest.mark.xdist_group("vision2seq")  # one worker makes its models
NUM_NEW_TOKENS = 8
SMALL, WIDE = (56, 56), (112, 56)
ON_CARD = {"ctx_len": 16, "encoder_ctx_len": 24}
"""The encoder runs at one size, a shorter text padded."""
TYPES = ("florence2", "pix2struct")
"""Features of images among the tokens of a text, with prompts without; patches of which some do not count, and answers
that begin with the prompt."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def folder(model_type: str) -> Path:
        return image_text_models.make(model_type, root / model_type)

    return folder


def load(folder: Path) -> Any:
    return QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))


@pytest.fixture(scope="module")
def compiled(folders: Any) -> Any:
    @cache
    def model(model_type: str) -> Any:
        loaded = load(folders(model_type))
        loaded.compile(target="cpu", ctx_len=32, precision="fp32")
        return loaded

    return model


def case(folder: Path, *sizes: tuple[int, int]) -> tuple[dict[str, Any], list[int]]:
    """The processor's output for a prompt, and Hugging Face's answer."""
    inputs = image_text_models.inputs(folder, "what is it", images(*sizes))
    return inputs, image_text_models.reference(folder, dict(inputs), NUM_NEW_TOKENS)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        *((each, (WIDE,)) for each in TYPES),
        ("florence2", ()),
        pytest.param("t5gemma2", (WIDE,), marks=pytest.mark.sweep),  # writes one row to all tokens of a kind
        pytest.param("pp_formulanet", (WIDE,), marks=pytest.mark.sweep),  # its processor takes no text
    ],
)
def test_answers_are_those_of_hugging_face(model_type: str, sizes: Any, folders: Any, compiled: Any) -> None:
    inputs, expected = case(folders(model_type), *sizes)
    answers = compiled(model_type).generate(inputs, generation_len=NUM_NEW_TOKENS)
    assert answers.generated_ids[0].tolist() == expected


def test_a_config_that_is_no_decoder_may_have_one(folders: Any) -> None:
    assert isinstance(load(folders("udop")), QEFFAutoModelForVision2Seq)


def test_a_checkpoint_with_an_encoder_and_a_decoder_gets_their_class(compiled: Any) -> None:
    model = compiled("florence2")
    assert isinstance(model, QEFFAutoModelForVision2Seq)
    assert auto_class_for_config(model.config) is QEFFAutoModelForVision2Seq
    assert isinstance(QEFFAutoModelForImageTextToText(model.model), QEFFAutoModelForVision2Seq)


def test_a_padded_batch_is_read_row_by_row(folders: Any, compiled: Any) -> None:
    """As a processor makes it for several prompts."""
    cases = [case(folders("florence2"), SMALL), case(folders("florence2")), case(folders("florence2"), WIDE)]
    longest = max(inputs["input_ids"].shape[1] for inputs, _ in cases)
    batch = {
        name: torch.cat(
            [torch.nn.functional.pad(inputs[name], (0, longest - inputs[name].shape[1])) for inputs, _ in cases]
        )
        for name in ("input_ids", "attention_mask")
    }
    batch["pixel_values"] = torch.cat([inputs["pixel_values"] for inputs, _ in cases if "pixel_values" in inputs])
    answers = compiled("florence2").generate(batch, generation_len=NUM_NEW_TOKENS)
    assert [ids.tolist() for ids in answers.generated_ids] == [expected for _, expected in cases]


def test_a_package_needs_neither_checkpoint_nor_processor(compiled: Any) -> None:
    """Its processor reads images and texts; where the encoder reads no text, the answer begins with it."""
    model = compiled("pix2struct")
    (picture,) = images(WIDE)
    with QEfficient.from_package(model.qpc_path, full_batch_size=2) as package:
        answers = package.generate(["what", "it"], images=[[picture], [picture]], generation_len=3)
        # Where its processor does not make these of a prompt:
        assert package._begin("what is it") == model.tokenizer("what is it", add_special_tokens=False)["input_ids"]
    expected = [model.generate(prompts=text, images=picture, generation_len=3) for text in ("what", "it")]
    assert [ids.tolist() for ids in answers.generated_ids] == [each.generated_ids[0].tolist() for each in expected]
    assert not np.array_equal(*answers.generated_ids)


@pytest.mark.parametrize(
    ("model_type", "sizes", "graphs"),
    [
        ("pix2struct", {"ctx_len": 24}, {"encoder", "decoder"}),
        pytest.param("florence2", ON_CARD, {"encoder", "decoder", "vision"}, marks=pytest.mark.sweep),
    ],
)
def test_the_simulated_card_sees(model_type: str, sizes: dict[str, int], graphs: set[str], folders: Any) -> None:
    inputs, expected = case(folders(model_type), SMALL)
    model = load(folders(model_type))
    path = model.compile(target="cloud-ai-100-sim", num_cores=8, **sizes)
    assert model.generate(inputs, generation_len=NUM_NEW_TOKENS).generated_ids[0].tolist() == expected
    assert graphs <= {entry.name for entry in path.iterdir()}


def test_verify_compares_states_and_tokens(folders: Any, compiled: Any) -> None:
    inputs, _ = case(folders("pix2struct"), WIDE)
    report = compiled("pix2struct").verify(inputs, generation_len=4)
    assert report.agrees
    assert 0 <= report.prompts[0].feature_errors["prompt"] < 1e-4


def test_what_does_not_fit_is_refused(folders: Any, compiled: Any) -> None:
    florence, pix2struct = compiled("florence2"), compiled("pix2struct")
    inputs, _ = case(folders("florence2"), SMALL)
    with pytest.raises(OptionError, match=r"5 placeholder\(s\) for images .* make 10 row\(s\)"):
        florence.generate({**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})
    with pytest.raises(OptionError, match="answers to images, and the prompt has none"):
        pix2struct.generate("what is it")
    with pytest.raises(CapacityError, match=r"has 1507 tokens.* compiled for 143.* encoder_ctx_len=1507"):
        florence.generate(prompts="word " * 300, images=images(SMALL))
    with pytest.raises(CapacityError, match="encoder_ctx_len=4096 is beyond the 512 positions"):
        florence.compile(target="cpu", encoder_ctx_len=4096)
    with pytest.raises(OptionError, match="models that continue a text"):
        florence.evaluate([1, 2, 3])


def test_without_a_processor_nothing_is_known(folders: Any) -> None:
    wrapped = QEfficient.transform(image_text_models.model(folders("pix2struct")))
    assert isinstance(wrapped, QEFFAutoModelForVision2Seq)
    with pytest.raises(LifecycleError, match="has no processor"):
        wrapped.compile(target="cpu")
