"""Weights that a checkpoint does not have: harmless where nothing that is asked for depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures.tiny import tiny_config
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    BlipForImageTextRetrieval,
    SiglipTextModel,
)

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSequenceClassification
from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.missing import MissingParameter

IDS = [[5, 6, 7, 8, 9], [11, 12, 13]]


def saved_by(auto_class: Any, family: str, model_type: str, folder: Path) -> Any:
    """A model as ``auto_class`` makes it, saved in ``folder``."""
    torch.manual_seed(0)
    model = auto_class.from_config(tiny_config(family, model_type), dtype=torch.float32).eval()
    model.save_pretrained(folder)
    return model


def leave_out(folder: Path, end: str) -> None:
    """Drop the first weight whose name ends so."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.endswith(end))]
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize("model_type", ["bert", "mpnet", pytest.param("roberta", marks=pytest.mark.sweep)])
def test_a_masked_language_model_has_no_pooler(tmp_path: Path, model_type: str, target: str) -> None:
    saved = saved_by(AutoModelForMaskedLM, "text_encoder", model_type, tmp_path)
    options: dict[str, Any] = {"precision": "fp32"} if target == "cpu" else {}
    with QEFFAutoModel.from_pretrained(tmp_path) as model:
        assert any(isinstance(parameter, MissingParameter) for parameter in model._loaded().parameters())
        model.compile(seq_len=16, target=target, **options)
        states = model.generate(IDS)["output"]
    for ids, got in zip(IDS, states, strict=True):
        expected = saved.base_model(torch.tensor([ids])).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(got[: len(ids)], expected, atol=1e-4 if target == "cpu" else 2e-2)


def test_what_is_missing_is_no_part_of_the_key(tmp_path: Path) -> None:
    """transformers draws it anew at each load."""
    saved_by(AutoModelForMaskedLM, "text_encoder", "roberta", tmp_path)
    keys = [QEFFAutoModel.from_pretrained(tmp_path).package_ingredients(seq_len=16, target="cpu") for _ in range(2)]
    assert keys[0] == keys[1]


def test_a_classifier_needs_its_head(tmp_path: Path) -> None:
    saved_by(AutoModelForMaskedLM, "text_encoder", "roberta", tmp_path)
    with pytest.raises(CorruptCheckpoint, match=r"'classifier\.dense\.bias' is missing.*saved without the head"):
        QEFFAutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_language_model_needs_its_head(tmp_path: Path) -> None:
    saved_by(AutoModel, "causal_lm", "gpt_neox", tmp_path)
    with pytest.raises(CorruptCheckpoint, match="is missing"):
        QEFFAutoModelForCausalLM.from_pretrained(tmp_path)


def test_pooling_with_a_missing_weight(tmp_path: Path) -> None:
    """A layer's weight is needed whatever is asked for."""
    saved_by(AutoModelForMaskedLM, "text_encoder", "bert", tmp_path)
    leave_out(tmp_path, "layer.1.output.dense.weight")
    with pytest.raises(CorruptCheckpoint, match=r"layer\.1\.output\.dense\.weight' is missing"):
        QEFFAutoModel.from_pretrained(tmp_path, pooling="mean")


@pytest.mark.parametrize("model_type", ["siglip", "chinese_clip", "owlvit"])
def test_a_text_tower_needs_its_own_weights_only(tmp_path: Path, model_type: str) -> None:
    saved = saved_by(AutoModel, "text_encoder", model_type, tmp_path)
    leave_out(tmp_path, next(name for name in saved.state_dict() if name.startswith("vision_model.")))
    tower = QEFFAutoModel.from_pretrained(tmp_path).model
    assert type(tower) is type(saved.text_model)
    assert {*tower.state_dict()} == {*saved.text_model.state_dict()}
    for name, value in tower.state_dict().items():
        torch.testing.assert_close(value, saved.text_model.state_dict()[name])
    leave_out(tmp_path, next(f"text_model.{name}" for name in tower.state_dict() if ".0." in name))
    with pytest.raises(CorruptCheckpoint, match=r"\.0\..* is missing"):
        QEFFAutoModel.from_pretrained(tmp_path)


def test_a_text_tower_saved_alone(tmp_path: Path) -> None:
    """transformers has no auto class for its config."""
    torch.manual_seed(0)
    hf = SiglipTextModel(tiny_config("text_encoder", "siglip").text_config).eval()
    hf.save_pretrained(tmp_path)
    with QEFFAutoModel.from_pretrained(tmp_path) as model:
        model.compile(seq_len=16, precision="fp32", target="cpu")
        states = model.generate(IDS)["output"]
    for ids, got in zip(IDS, states, strict=True):
        expected = hf(torch.tensor([ids])).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(got[: len(ids)], expected, atol=1e-4)


def test_a_tower_under_other_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BlipForImageTextRetrieval(tiny_config("text_encoder", "blip")).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=rf"{tmp_path} has no weights.*BlipForImageTextRetrieval"):
        QEFFAutoModel.from_pretrained(tmp_path)


def test_a_model_of_another_class(tmp_path: Path) -> None:
    saved_by(AutoModelForImageTextToText, "text_encoder", "blip-2", tmp_path)
    with pytest.raises(UnsupportedModel, match=r"no AutoModelForCausalLM for a Blip2Config\. `qefficient inspect`"):
        QEFFAutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_type", ["roberta", "bert", "big_bird", "electra"])
def test_a_masked_language_model_continues_no_text(tmp_path: Path, model_type: str) -> None:
    """Its tokens attend to later ones."""
    saved_by(AutoModelForMaskedLM, "text_encoder", model_type, tmp_path)
    with pytest.raises(UnsupportedModel, match=r"is_decoder is false.*QEFFAutoModel"):
        QEFFAutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="is_decoder is false"):
        QEFFAutoModelForCausalLM(AutoModelForCausalLM.from_pretrained(tmp_path))
    QEFFAutoModelForCausalLM(AutoModelForCausalLM.from_pretrained(tmp_path, is_decoder=True))


@pytest.mark.parametrize(
    ("auto_class", "model_type", "reason"),
    [
        (AutoModel, "dpr", "returns no hidden state per token"),
        (AutoModel, "videoprism", "returns hidden states of shape"),
        (AutoModel, "blip-2", "does not run on text alone.*pixel_values"),
    ],
)
def test_a_model_without_a_state_per_token(tmp_path: Path, auto_class: Any, model_type: str, reason: str) -> None:
    saved_by(auto_class, "text_encoder", model_type, tmp_path)
    with pytest.raises(UnsupportedModel, match=reason):
        QEFFAutoModel.from_pretrained(tmp_path).compile(seq_len=16)


def test_reading_a_missing_weight_is_an_error(tmp_path: Path) -> None:
    saved_by(AutoModelForMaskedLM, "text_encoder", "bert", tmp_path)
    weights = QEFFAutoModel.from_pretrained(tmp_path)._weights()
    with pytest.raises(CorruptCheckpoint, match=r"has no weight 'pooler\.dense\.weight'"):
        next(weights.read("pooler.dense.weight"))
