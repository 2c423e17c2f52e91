"""Models with two towers: vectors of texts and of images, and their scores, compared with Hugging Face."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import two_tower_models
from image_text.pictures import images
from image_text.processors import load as load_processor
from two_tower_models import TEXT_LEN

from QEfficient import QEFFAutoModel
from QEfficient.errors import CapacityError, LifecycleError, OptionError

pytestmark = pytest.mark.xdist_group("two_towers")  # one worker makes its models
TEXTS = ["My name is John", "a red square on the left", "a"]
SIZES = ((56, 56), (112, 56))
TYPES = ["clip", "siglip", "siglip2", "blip"]
CPU: dict[str, Any] = {"target": "cpu", "precision": "fp32", "num_threads": 1, "batch_size": 2, "seq_len": TEXT_LEN}
CARD: dict[str, Any] = {**CPU, "target": "cloud-ai-100-sim", "num_cores": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("towers")

    @cache
    def made(model_type: str) -> Path:
        return two_tower_models.make(model_type, root / model_type)

    return made


@pytest.fixture(scope="module")
def loaded(folders: Callable[[str], Path]) -> Callable[[str], QEFFAutoModel]:
    """Models compiled for cpu, by type."""

    @cache
    def compiled(model_type: str) -> QEFFAutoModel:
        model = QEFFAutoModel.from_pretrained(folders(model_type))
        model.compile(**CPU)
        return model

    return compiled


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max(), rtol=0)


def assert_agrees(model: QEFFAutoModel, folder: Path) -> None:
    pictures = images(*SIZES)
    batch = two_tower_models.inputs(folder, TEXTS, pictures)
    texts, pictured, scores = two_tower_models.reference(folder, batch)
    assert_near(model.get_text_features(TEXTS), texts)
    assert_near(model.get_image_features(pictures), pictured)
    assert_near(model.similarity(TEXTS, pictures), scores)


@pytest.mark.parametrize("model_type", TYPES)
def test_vectors_and_scores_on_cpu(
    folders: Callable[[str], Path], loaded: Callable[[str], QEFFAutoModel], model_type: str
) -> None:
    assert_agrees(loaded(model_type), folders(model_type))


@pytest.mark.parametrize(
    "model_type", ["clip", *(pytest.param(each, marks=pytest.mark.sweep) for each in ("siglip", "siglip2"))]
)
def test_vectors_and_scores_on_the_card(folders: Callable[[str], Path], model_type: str) -> None:
    with QEFFAutoModel.from_pretrained(folders(model_type)) as model:
        model.compile(**CARD)
        assert_agrees(model, folders(model_type))


def test_hidden_states_stay_those_of_the_text_tower(
    folders: Callable[[str], Path], loaded: Callable[[str], QEFFAutoModel]
) -> None:
    """SigLIP's states take padding, its vectors do not."""
    import torch
    from transformers import AutoModel

    tower = AutoModel.from_pretrained(folders("siglip"), dtype=torch.float32).eval().text_model
    ids = [[1, 9, 12, 2], [1, 7, 2]]
    states = loaded("siglip").generate(ids)["output"]
    for tokens, ours in zip(ids, states, strict=True):
        with torch.no_grad():
            expected = tower(torch.tensor([tokens])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(ours[: len(tokens)], expected, atol=1e-4)


def test_forms_of_images(loaded: Callable[[str], QEFFAutoModel], tmp_path: Path) -> None:
    model, (picture,) = loaded("clip"), images((56, 56))
    picture.save(tmp_path / "square.png")
    content = io.BytesIO()
    picture.save(content, "PNG")
    expected = model.get_image_features([picture])
    assert model.processor is not None
    processed = model.processor.image_processor(images=[picture], return_tensors="np")
    for form in (picture, np.asarray(picture), content.getvalue(), str(tmp_path / "square.png"), dict(processed)):
        np.testing.assert_array_equal(model.get_image_features(form), expected)


def test_forms_of_texts(folders: Callable[[str], Path], loaded: Callable[[str], QEFFAutoModel]) -> None:
    for model_type in ("clip", "siglip", "siglip2"):
        batch = two_tower_models.inputs(folders(model_type), TEXTS, images((56, 56)))
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        model = loaded(model_type)
        np.testing.assert_allclose(model.get_text_features(tokens), model.get_text_features(TEXTS), atol=1e-5)


def test_a_package_runs_without_the_checkpoint(loaded: Callable[[str], QEFFAutoModel]) -> None:
    for model_type in ("clip", "siglip2"):
        model, pictures = loaded(model_type), images(*SIZES)
        assert model.qpc_path is not None
        with QEFFAutoModel.from_package(model.qpc_path) as opened:
            np.testing.assert_array_equal(opened.similarity(TEXTS, pictures), model.similarity(TEXTS, pictures))


def test_a_model_without_a_processor_is_for_texts(folders: Callable[[str], Path]) -> None:
    from transformers import AutoModel

    folder = folders("clip")
    with QEFFAutoModel(AutoModel.from_pretrained(folder), tokenizer=load_processor(folder).tokenizer) as model:
        model.compile(**CPU)
        expected = two_tower_models.reference(folder, two_tower_models.inputs(folder, TEXTS, images((56, 56))))[0]
        assert_near(model.get_text_features(TEXTS), expected)
        with pytest.raises(LifecycleError, match="without a processor that reads images"):
            model.get_image_features(images((56, 56)))


def test_what_is_refused(loaded: Callable[[str], QEFFAutoModel], tmp_path: Path) -> None:
    model = loaded("siglip")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OptionError, match="is not an image in PNG"):
        model.get_image_features(tmp_path / "text.png")
    with pytest.raises(CapacityError, match="No image was passed"):
        model.get_image_features([])
    with pytest.raises(OptionError, match="has no images, but input_ids"):
        model.get_image_features({"input_ids": [[1]]})
    with pytest.raises(CapacityError, match=f"of at most {TEXT_LEN}: shorten it"):
        model.get_text_features([[5] * (TEXT_LEN + 1)])
    with pytest.raises(CapacityError, match="at least 2 on each side"):
        model.get_image_features(np.zeros((1, 1, 3), np.uint8))


def test_one_tower_has_no_vectors_of_images() -> None:
    import tiny_models

    model = QEFFAutoModel(tiny_models.encoder())
    model.compile(**CPU)
    with model, pytest.raises(OptionError, match="reads texts alone: only a model with two towers"):
        model.get_image_features(images((56, 56)))
