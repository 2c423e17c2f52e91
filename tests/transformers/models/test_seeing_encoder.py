"""Encoders that read images among texts: pooled states compared with Hugging Face, as of Qwen3-VL-Embedding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import image_text_models
import numpy as np
import pytest
from image_text.pictures import images
from image_text.processors import load as load_processor

from QEfficient import QEFFAutoModel
from QEfficient.errors import CapacityError, OptionError

pytestmark = pytest.mark.xdist_group("seeing_encoder")  # one worker makes its models
CPU: dict[str, Any] = {"target": "cpu", "precision": "fp32", "num_threads": 1, "batch_size": 2, "seq_len": [96, 384]}
CARD: dict[str, Any] = {**CPU, "target": "cloud-ai-100-sim", "num_cores": 8, "seq_len": 160}
INSTRUCTION = "Represent the user's input."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("seeing")
    return cache(lambda model_type: image_text_models.make(model_type, root / model_type))


@pytest.fixture(scope="module")
def embedder(folders: Callable[[str], Path]) -> QEFFAutoModel:
    model = loaded(folders("qwen3_vl"))
    model.compile(**CPU)
    return model


def loaded(folder: Path) -> QEFFAutoModel:
    model: QEFFAutoModel = QEFFAutoModel.from_pretrained(folder, pooling="last", processor=load_processor(folder))
    return model


def expected(folder: Path, inputs: dict[str, Any]) -> np.ndarray:
    """The last token's state of a processor's output for one prompt."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        state: np.ndarray = model(**inputs).last_hidden_state[0, -1].numpy()
    return state


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max(), rtol=0)


def assert_agrees(model: QEFFAutoModel, folder: Path, pictures: list[list[Any]]) -> None:
    """Alone, as a processor's output, and together."""
    asked = [image_text_models.inputs(folder, "what is it", each) for each in pictures]
    theirs = [expected(folder, dict(each)) for each in asked]
    for inputs, state in zip(asked, theirs, strict=True):
        assert_near(model.generate(dict(inputs))["output"][0], state)
    shown = [index for index, each in enumerate(pictures) if each]  # a text alone gets no template
    together = model.generate(["what is it"] * len(shown), images=[pictures[index] for index in shown])["output"]
    assert_near(together, np.stack([theirs[index] for index in shown]))


@pytest.mark.parametrize("model_type", ["qwen3_vl", "gemma3"])
def test_states_on_cpu(folders: Callable[[str], Path], embedder: QEFFAutoModel, model_type: str) -> None:
    """A text alone, an image, and two of other sizes."""
    model = embedder if model_type == "qwen3_vl" else loaded(folders(model_type))
    if model is not embedder:
        model.compile(**CPU)
    assert_agrees(model, folders(model_type), [[], list(images((56, 56))), list(images((112, 56), (40, 120)))])


def test_states_on_the_card(folders: Callable[[str], Path]) -> None:
    with loaded(folders("qwen3_vl")) as model:
        model.compile(**CARD)
        assert_agrees(model, folders("qwen3_vl"), [[], list(images((56, 56)))])


def test_an_instruction_is_the_message_of_the_system(folders: Callable[[str], Path], embedder: QEFFAutoModel) -> None:
    pictures = list(images((56, 56)))
    content = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "a square"}]
    chat = [
        {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
        {"role": "user", "content": content},
    ]
    ours = embedder.generate("a square", images=pictures, instruction=INSTRUCTION)["output"]
    np.testing.assert_allclose(embedder.generate([chat])["output"], ours, atol=1e-5)
    assert np.abs(embedder.generate("a square", images=pictures)["output"] - ours).max() > 1e-3


def test_a_package_runs_without_the_checkpoint(embedder: QEFFAutoModel) -> None:
    assert embedder.qpc_path is not None
    asked: dict[str, Any] = {"images": [list(images((56, 56))), []], "instruction": INSTRUCTION}
    with QEFFAutoModel.from_package(embedder.qpc_path) as opened:
        np.testing.assert_allclose(
            opened.generate(["a", "b"], **asked)["output"], embedder.generate(["a", "b"], **asked)["output"], atol=1e-6
        )


def test_token_ids_have_no_images(embedder: QEFFAutoModel) -> None:
    (row,) = embedder.generate([[5, 6, 7]])["output"]
    np.testing.assert_allclose(embedder.generate([5, 6, 7])["output"][0], row, atol=1e-6)
    with pytest.raises(OptionError, match="has placeholders for images, and no image"):
        embedder.generate([[5, embedder.config.image_token_id, 7]])


def test_what_is_refused(folders: Callable[[str], Path], embedder: QEFFAutoModel) -> None:
    inputs = image_text_models.inputs(folders("qwen3_vl"), "what is it", images((56, 56)))
    with pytest.raises(OptionError, match=r"placeholder\(s\) for images, and the images make 0 row"):
        embedder.generate({"input_ids": inputs["input_ids"], "mm_token_type_ids": inputs["mm_token_type_ids"]})
    with pytest.raises(CapacityError, match="longest compiled seq_len is 384"):
        embedder.generate("a " * 400, images=[])
    with pytest.raises(OptionError, match="a chat has a message of the system already"):
        embedder.generate([[{"role": "user", "content": "a"}]], images=[[]], instruction=INSTRUCTION)


def test_a_model_for_texts_takes_no_images(folders: Callable[[str], Path]) -> None:
    import tiny_models

    with QEFFAutoModel(tiny_models.encoder()) as model:
        model.compile(**{**CPU, "seq_len": 16})
        with pytest.raises(OptionError, match="was compiled for texts alone"):
            model.generate([[1, 2]], images=[[]])
    with pytest.raises(OptionError, match="reads texts alone: leave processor out"):
        QEFFAutoModel(tiny_models.encoder(), processor=load_processor(folders("qwen3_vl")))
