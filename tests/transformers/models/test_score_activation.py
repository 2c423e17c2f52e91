"""A reranker scores as sentence-transformers does: with the activation that it stored beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, get_args

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForSequenceClassification
from QEfficient.errors import CorruptCheckpoint, UnsafeCheckpoint, UnsupportedModel
from QEfficient.generation.tasks.sequence_classification import (
    Activation,
    ClassifierRecord,
    CompiledSequenceClassifier,
    EncoderRecord,
)

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
QUERY, DOCUMENTS = "What is the capital", ["Paris", "The card", "My name is John"]
FILES: dict[str, dict[str, Any]] = {
    "sentence-transformers 6": {"config_sentence_transformers.json": {"activation_fn": IDENTITY}, "modules.json": []},
    "4 and 5": {"config.json": {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.0.0"}}},
    "before 4": {"config.json": {"sbert_ce_default_activation_function": "torch.nn.Identity"}},
}
"""How its versions store an activation; a list of modules makes the first file count."""


@cache
def saved(num_labels: int) -> Path:
    folder = Path(mkdtemp(dir=Path(os.environ["QEFF_HOME"]).parent))
    tiny_models.classifier(num_labels).save_pretrained(folder)
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = None  # sentence-transformers would make a chat of a pair
    tokenizer.save_pretrained(folder)
    return folder


def checkpoint(folder: Path, num_labels: int = 1, **files: Any) -> Path:
    shutil.copytree(saved(num_labels), folder, dirs_exist_ok=True)
    for name, content in files.items():
        path = folder / name
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**stored, **content} if isinstance(content, dict) else content), encoding="utf-8")
    return folder


def activation(folder: Path) -> Activation | None:
    return QEFFAutoModelForSequenceClassification.from_pretrained(folder)._activation()


@pytest.mark.parametrize("version", FILES)
def test_each_version_stores_it_elsewhere(tmp_path: Path, version: str) -> None:
    assert activation(checkpoint(tmp_path, **FILES[version])) == "Identity"


def test_which_of_several_counts(tmp_path: Path) -> None:
    of_config = {"config.json": {"sentence_transformers": {"activation_fn": SIGMOID}}}
    assert activation(checkpoint(tmp_path / "first", **FILES["sentence-transformers 6"], **of_config)) == "Identity"
    alone = {"config_sentence_transformers.json": {"activation_fn": IDENTITY}}
    assert activation(checkpoint(tmp_path / "without modules", **alone, **of_config)) == "Sigmoid"
    none = {"config.json": {"sentence_transformers": {"activation_fn": None}}}
    assert activation(checkpoint(tmp_path / "none", **none)) is None


def test_identity_of_several_labels(tmp_path: Path) -> None:
    """As CrossEncoder.predict: logits."""
    assert activation(checkpoint(tmp_path, 3, **FILES["4 and 5"])) == "Identity"


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
def test_rank_gives_the_stored_scores(tmp_path: Path, target: str) -> None:
    folder = checkpoint(tmp_path, **FILES["sentence-transformers 6"])
    hf, tokenizer = tiny_models.classifier(1), tiny_models.tiny_tokenizer()
    with torch.no_grad():
        pairs = [tokenizer(QUERY, document, return_tensors="pt") for document in DOCUMENTS]
        logits = np.array([hf(**pair).logits[0, 0].item() for pair in pairs])
    with QEFFAutoModelForSequenceClassification.from_pretrained(folder) as model:
        model.compile(target=target, seq_len=64, precision="fp32")
        ranked = model.rank(QUERY, DOCUMENTS)
        assert [index for index, _ in ranked] == np.argsort(-logits).tolist()
        np.testing.assert_allclose([score for _, score in ranked], np.sort(logits)[::-1], atol=2e-2)
        pairs = [(QUERY, document) for document in DOCUMENTS]
        np.testing.assert_allclose(model._open().scores(model.generate(pairs)["logits"])[:, 0], logits, atol=2e-2)


@pytest.mark.parametrize("name", get_args(Activation))
def test_scores_are_those_of_torch(name: Activation) -> None:
    class Opened(CompiledSequenceClassifier):
        def __init__(self, record: ClassifierRecord):
            self.record = record

    logits = np.random.default_rng(0).normal(0, 8, (7, 3)).astype(np.float32)
    logits[0] = 100, -100, 0
    record = ClassifierRecord(
        encoder=EncoderRecord.__new__(EncoderRecord), labels=("a", "b", "c"), problem_type=None, activation=name
    )
    layer = torch.nn.Softmax(1) if name == "Softmax" else getattr(torch.nn, name)()
    expected = layer(torch.tensor(logits)).numpy()
    np.testing.assert_allclose(Opened(record).scores(logits), expected, rtol=1e-4, atol=1e-7)


def test_an_activation_that_a_package_cannot_run(tmp_path: Path) -> None:
    files = {"config.json": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Hardtanh"}}}
    with pytest.raises(UnsupportedModel, match=r"Hardtanh.*Identity, Sigmoid, .*Take activation_fn out"):
        QEFFAutoModelForSequenceClassification.from_pretrained(checkpoint(tmp_path, **files))


def test_code_of_a_stranger_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint(tmp_path, **{"config.json": {"sentence_transformers": {"activation_fn": "os.abort"}}})
    model = QEFFAutoModelForSequenceClassification.from_pretrained(folder)
    assert model._activation() is None
    model.package_ingredients(target="cpu", seq_len=64)
    assert "os.abort" in caplog.text


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": {"sentence_transformers": "Identity"}},
        {"config.json": {"sentence_transformers": {"activation_fn": 5}}},
        {"config.json": {"sbert_ce_default_activation_function": ["x"]}},
        {"config_sentence_transformers.json": [], "modules.json": []},
        {"config_sentence_transformers.json": {"activation_fn": {}}, "modules.json": []},
    ],
    ids=str,
)
def test_a_damaged_entry(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(CorruptCheckpoint):
        QEFFAutoModelForSequenceClassification.from_pretrained(checkpoint(tmp_path, **files))


def test_a_file_outside_of_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "folder", **{"modules.json": []})
    (tmp_path / "elsewhere.json").write_text("{}", encoding="utf-8")
    (folder / "config_sentence_transformers.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafeCheckpoint):
        QEFFAutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", [None, "Identity"])
def test_sentence_transformers_gives_the_same(tmp_path: Path, name: str | None) -> None:
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    chosen = {} if name is None else {"activation_fn": getattr(torch.nn, name)()}
    cross_encoder(str(checkpoint(tmp_path / "plain")), device="cpu", **chosen).save_pretrained(str(tmp_path / "saved"))
    theirs = cross_encoder(str(tmp_path / "saved"), device="cpu").rank(QUERY, DOCUMENTS)
    with QEFFAutoModelForSequenceClassification.from_pretrained(tmp_path / "saved") as model:
        model.compile(target="cpu", precision="fp32", seq_len=64)
        ours = model.rank(QUERY, DOCUMENTS)
    assert [index for index, _ in ours] == [each["corpus_id"] for each in theirs]
    np.testing.assert_allclose([score for _, score in ours], [each["score"] for each in theirs], atol=1e-4)
