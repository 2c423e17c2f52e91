"""Rerankers and classifiers of pairs: the scores and the order of sentence-transformers' CrossEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForSequenceClassification, from_package
from QEfficient.errors import CapacityError, OptionError

CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder

pytestmark = pytest.mark.xdist_group("cross_encoder")  # one worker makes its models
QUERY = "What is the capital"
DOCUMENTS = ["Paris", "The card", "My name is John and I am an engineer.", "The capital of France is Paris."]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
LONG = "The assistant answers, and the user asks more. " * 9


def write(folder: Path, num_labels: int) -> Path:
    """A folder that sentence-transformers saved."""
    tiny_models.classifier(num_labels).save_pretrained(folder / "plain")
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = None  # sentence-transformers would make chats of pairs
    tokenizer.save_pretrained(folder / "plain")
    model = CrossEncoder(str(folder / "plain"), device="cpu", max_length=40, prompts={"ask": "Question: "})
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="module", params=[1, 3])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ours, compiled, and sentence-transformers', with one and with several labels."""
    folder = write(tmp_path_factory.mktemp("cross"), request.param)
    with QEFFAutoModelForSequenceClassification.from_pretrained(folder) as model:
        model.compile(target="cpu", precision="fp32", num_threads=1, batch_size=3, seq_len=[16, 48])
        yield model, CrossEncoder(str(folder), device="cpu")


def test_scores_of_pairs(both: Any) -> None:
    ours, theirs = both
    for options in ({}, {"apply_softmax": True}, {"prompt_name": "ask"}):
        scores = ours.predict(PAIRS, **options)
        assert scores.shape == ((4,) if len(ours.labels) == 1 else (4, 3))
        np.testing.assert_allclose(scores, theirs.predict(PAIRS, **options), atol=1e-4)
    np.testing.assert_allclose(ours.predict(PAIRS[0]), theirs.predict(PAIRS[0]), atol=1e-4)
    assert isinstance(ours.predict(PAIRS, convert_to_tensor=True), torch.Tensor)
    assert len(ours.predict([])) == 0
    with from_package(ours.qpc_path) as package:
        np.testing.assert_array_equal(package.predict(PAIRS, batch_size=1), ours.predict(PAIRS, batch_size=1))
        assert package.labels == ours.labels
        logits = package.generate(PAIRS)["logits"]
        np.testing.assert_array_equal(package.scores(logits), ours.scores(logits))


def test_long_pairs(both: Any) -> None:
    ours, theirs = both
    pairs = [(QUERY, LONG), (LONG, QUERY), (LONG, LONG)]
    np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-4)
    with from_package(ours.qpc_path) as package:
        np.testing.assert_allclose(package.predict(pairs), theirs.predict(pairs), atol=1e-4)
    with pytest.raises(CapacityError, match="nothing is cut silently"):
        ours.predict(pairs, truncation=False)


def test_order(both: Any) -> None:
    ours, theirs = both
    if len(ours.labels) != 1:
        with pytest.raises(OptionError, match="Only a model of one label ranks"):
            ours.rank(QUERY, DOCUMENTS)
        return
    expected = theirs.rank(QUERY, DOCUMENTS, top_k=3, return_documents=True)
    ranked = ours.rank(QUERY, DOCUMENTS, top_k=3, return_documents=True)
    assert [(index, text) for index, _, text in ranked] == [(each["corpus_id"], each["text"]) for each in expected]
    np.testing.assert_allclose([score for _, score, _ in ranked], [each["score"] for each in expected], atol=1e-4)
    assert ours.rank(QUERY, []) == []
    with pytest.raises(OptionError, match="Did you mean 'top_k'"):
        ours.rank(QUERY, DOCUMENTS, topk=2)
    with pytest.raises(OptionError, match="Did you mean 'apply_softmax'"):
        ours.predict(PAIRS, softmax=True)
