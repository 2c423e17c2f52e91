"""Late interaction: a checkpoint in PyLate's layout, compared with the same steps in torch."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import retrieval_models
import tiny_models
import torch
from image_text.pictures import images
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from QEfficient import QEFFAutoModel
from QEfficient.errors import CapacityError, CorruptCheckpoint, OptionError, UnsupportedModel

pytestmark = pytest.mark.xdist_group("late_interaction")  # one worker makes its models
QUERIES = ["What is the capital of France?", "My name"]
DOCUMENTS = ["Paris is the capital of France.", "My name is John.", "The weather is good, is it?"]
QUERY_LEN = 20
OPTIONS: dict[str, Any] = {"precision": "fp32", "num_threads": 1, "batch_size": 2, "seq_len": 48}


def reference(folder: Path, text: str, *, is_query: bool, attends: bool = False) -> np.ndarray:
    """What PyLate does."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text)["input_ids"]
    ids.insert(1, tokenizer.convert_tokens_to_ids("[Q] " if is_query else "[D] "))
    mask = [1] * len(ids)
    if is_query:
        num_added = QUERY_LEN - len(ids)
        ids, mask = [*ids, *[tokenizer.mask_token_id] * num_added], [*mask, *[int(attends)] * num_added]
    with torch.no_grad():
        states = model(torch.tensor([ids]), attention_mask=torch.tensor([mask])).last_hidden_state
    (weight,) = load_file(folder / "1_Dense" / "model.safetensors").values()
    vectors = torch.nn.functional.normalize(states[0] @ weight.T, dim=-1).numpy()
    skipped = tokenizer.convert_tokens_to_ids([*string.punctuation])
    return vectors if is_query else vectors[[number not in skipped for number in ids]]


def assert_agrees(model: QEFFAutoModel, folder: Path, *, attends: bool = False) -> None:
    queries, documents = model.encode_queries(QUERIES), model.encode_documents(DOCUMENTS)
    theirs = [reference(folder, text, is_query=True, attends=attends) for text in QUERIES]
    their_documents = [reference(folder, text, is_query=False) for text in DOCUMENTS]
    for ours, expected in zip([*queries, *documents], [*theirs, *their_documents], strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=1e-3)
    expected = [[(query @ document.T).max(1).sum() for document in their_documents] for query in theirs]
    np.testing.assert_allclose(model.score_retrieval(queries, documents), expected, rtol=1e-3)


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize("attends", [False, True])
def test_vectors_and_scores(tmp_path: Path, target: str, attends: bool) -> None:
    folder = tiny_models.save_colbert(tmp_path / "colbert", query_len=QUERY_LEN, attend_to_expansion_tokens=attends)
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(target=target, **OPTIONS)
        assert_agrees(model, folder, attends=attends)
        vectors, package = model.encode_queries(QUERIES)[0], model.qpc_path
    assert package is not None
    with QEFFAutoModel.from_package(package) as opened:
        np.testing.assert_array_equal(opened.encode_queries(QUERIES)[0], vectors)


def test_scores_are_those_of_transformers() -> None:
    from transformers import ColPaliProcessor

    generator = np.random.default_rng(0)
    queries = [generator.standard_normal((length, 8)).astype(np.float32) for length in (3, 5)]
    documents = [generator.standard_normal((7, 8)).astype(np.float32) for _ in range(3)]
    tensors = [[torch.from_numpy(each) for each in group] for group in (queries, documents)]
    expected = ColPaliProcessor.score_retrieval(None, *tensors).numpy()
    np.testing.assert_allclose(QEFFAutoModel.score_retrieval(queries, documents), expected, rtol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_colbert(tmp_path / "colbert", query_len=QUERY_LEN)
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(target="cpu", **OPTIONS)
        with pytest.raises(CapacityError, match=f"was trained with {QUERY_LEN}: shorten it"):
            model.encode_queries("My name is John. " * 9)
        with pytest.raises(OptionError, match="at least one query"):
            model.score_retrieval([], [])
        with pytest.raises(OptionError, match=r"takes arrays \[tokens, 3\]"):
            model.score_retrieval([np.zeros((2, 3))], [np.zeros((2, 4))])
    config = folder / "1_Dense" / "config.json"
    config.write_text(json.dumps({"use_residual": True}))
    with pytest.raises(UnsupportedModel, match="and a residual"):
        QEFFAutoModel.from_pretrained(folder)
    config.write_text("{}")
    (folder / "1_Dense" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptCheckpoint, match="holds no layer"):
        QEFFAutoModel.from_pretrained(folder)
    (folder / "modules.json").write_text("[{}]")
    with pytest.raises(CorruptCheckpoint, match="not a list of modules"):
        QEFFAutoModel.from_pretrained(folder)


def test_a_layer_after_a_pooling_is_for_texts(tmp_path: Path) -> None:
    folder = tiny_models.save_colbert(tmp_path / "colbert", query_len=QUERY_LEN)
    kinds = ("Transformer", "Pooling", "Dense")
    (folder / "modules.json").write_text(json.dumps([{"path": "1_Dense", "type": kind} for kind in kinds]))
    with QEFFAutoModel.from_pretrained(folder, pooling=None) as model:
        model.compile(target="cpu", **OPTIONS)
        assert model.generate("My name")["output"].shape[-1] == model.config.hidden_size
        with pytest.raises(OptionError, match="not loaded from a checkpoint of late interaction"):
            model.encode_queries("My name")


@pytest.mark.parametrize(
    ("model_type", "target"), [("colpali", "cpu"), ("colqwen2", "cpu"), ("colpali", "cloud-ai-100-sim")]
)
def test_images_as_documents(tmp_path: Path, model_type: str, target: str) -> None:
    folder = retrieval_models.make(model_type, tmp_path / model_type)
    pictures = list(images((56, 56), (56, 56)))
    options = OPTIONS | {"seq_len": 64} | ({"num_cores": 8} if target != "cpu" else {})
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(target=target, **options)
        queries, documents = model.encode_queries(QUERIES), model.encode_documents(pictures)
        package = model.qpc_path
    their_queries, their_documents, scores = retrieval_models.reference(folder, QUERIES, pictures)
    for ours, theirs in zip([*queries, *documents], [*their_queries, *their_documents], strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(QEFFAutoModel.score_retrieval(queries, documents), scores, rtol=1e-3)
    assert package is not None
    with QEFFAutoModel.from_package(package) as opened:
        np.testing.assert_allclose(opened.encode_documents(pictures)[1], documents[1], atol=1e-6)
        with pytest.raises(OptionError, match="takes a text or a list of texts"):
            opened.encode_queries([[1, 2]])
