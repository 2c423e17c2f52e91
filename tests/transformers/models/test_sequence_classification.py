"""Classifiers: a text gets the logits that Hugging Face gives it alone, whatever pads it and whatever is beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from architectures.reference import outputs, prompts
from architectures.tiny import tiny_model

from QEfficient import QEFFAutoModelForSequenceClassification, QEFFCommonLoader, from_package
from QEfficient.errors import CapacityError, OptionError, SizeDependence, UnsupportedModel

NAMES = ["bert", "llama", "gpt2", "bart", "mobilebert", "longformer", "qwen3_next"]
"""One for each place where an answer is read: the first token, the last one with a padding token and without, the last
end token of a decoder; one that looks at what is beside a text; one whose first token sees more than others; and one
with recurrent layers, whose own code goes over a text in chunks."""

SLOW = {"mobilebert", "qwen3_next"}
CASES = [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *([pytest.mark.sweep] if name in SLOW else [])])
    for name in NAMES
]


def expected(hf: Any, texts: list[list[int]]) -> np.ndarray:
    return np.concatenate([logits.numpy() for logits in outputs(hf, texts)])


def compiled(hf: Any, target: str = "cpu", **options: Any) -> QEFFAutoModelForSequenceClassification:
    model = QEFFAutoModelForSequenceClassification(hf)
    model.compile(**{"target": target, "precision": "fp32", "seq_len": 96, "batch_size": 2, **options})
    return model


@cache
def classifier(name: str) -> Any:
    return tiny_model("sequence_classification", name)


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize("name", CASES)
def test_a_text_gets_what_it_gets_alone(name: str, target: str) -> None:
    hf = classifier(name)
    texts = prompts(hf.config)
    with compiled(hf, target) as model:
        logits = model.generate(texts)["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(hf, texts), atol=1e-3 * abs(expected(hf, texts)).max())


@pytest.mark.parametrize("pad_token_id", [None, 9])
def test_padding_token_in_and_around_texts(pad_token_id: int | None) -> None:
    hf = tiny_model("sequence_classification", "llama")
    hf.config.pad_token_id = pad_token_id
    texts = [[5, 6, 7], [9, 8, 0], [4, 5, 6, 7, 8, 9], [3, 9, 9, 4, 0, 0, 1]]
    with compiled(hf, seq_len=[8, 16], batch_size=4) as model:
        np.testing.assert_allclose(model.generate(texts)["logits"], expected(hf, texts), atol=1e-4)
    assert hf.config.pad_token_id == pad_token_id, "the user's model is not changed"


def test_a_config_that_asks_for_tuples() -> None:
    hf = tiny_model("sequence_classification", "bert")
    texts = prompts(hf.config)
    logits = expected(hf, texts)
    hf.config.return_dict = False
    with compiled(hf) as model:
        np.testing.assert_allclose(model.generate(texts)["logits"], logits, atol=1e-3 * abs(logits).max())
    assert hf.config.return_dict is False


def test_a_text_without_end_token_is_refused() -> None:
    with (
        compiled(tiny_model("sequence_classification", "bart")) as model,
        pytest.raises(OptionError, match="no end token"),
    ):
        model.generate([[5, 6, 7]])


def test_where_padding_cannot_be_hidden_a_text_runs_at_its_length() -> None:
    hf = tiny_model("sequence_classification", "fnet")
    texts = [*prompts(hf.config), [4, 5, 6, 7, 8]]
    with compiled(hf) as model:
        np.testing.assert_allclose(model.generate(texts)["logits"], expected(hf, texts), atol=1e-3)
        with pytest.raises(CapacityError, match=r"Text 0 has 2 tokens.*graph is for 3 or more; compile with seq_len=2"):
            model.generate([[4, 5]])
    with compiled(hf, "cloud-ai-100-sim", seq_len=[5, 37]) as model:
        np.testing.assert_allclose(model.generate(texts[:2])["logits"], expected(hf, texts[:2]), atol=1e-3)
        with pytest.raises(CapacityError, match=r"Text 0 has 6 tokens.*exactly their length.*seq_len=6 too"):
            model.generate([[4, 5, 6, 7, 8, 9]])


def test_where_the_code_depends_on_the_length_a_package_is_for_one() -> None:
    hf = tiny_model("sequence_classification", "canine")
    text = prompts(hf.config)[1]
    with pytest.raises(SizeDependence, match=r"compile with one seq_len instead of several \(5, 37\)"):
        compiled(hf, seq_len=[5, 37])
    with compiled(hf, seq_len=37) as model:
        np.testing.assert_allclose(model.generate([text])["logits"], expected(hf, [text]), atol=1e-3)


def test_a_graph_is_for_the_lengths_that_it_can_be_for() -> None:
    hf = tiny_model("sequence_classification", "xlnet")  # its code holds for 511 tokens at most
    texts = prompts(hf.config)
    with compiled(hf, seq_len=[5, 37, 70]) as model:
        np.testing.assert_allclose(model.generate(texts)["logits"], expected(hf, texts), atol=1e-3)


def test_what_the_key_of_a_graph_has() -> None:
    """Words have no part in it, the greatest length only where it decides the graph."""

    def model(name: str) -> QEFFAutoModelForSequenceClassification:
        return QEFFAutoModelForSequenceClassification(tiny_model("sequence_classification", name))

    def exported(name: str, seq_len: int) -> Any:
        return model(name).package_ingredients(target="cpu", seq_len=seq_len)["program"]["onnx"]["plan"]

    def asked(name: str, seq_len: int) -> Any:
        planned = model(name)
        return planned._plan(*planned._parse({"target": "cpu", "seq_len": seq_len})).key()

    assert exported("fnet", 8) == exported("fnet", 20)
    assert asked("qwen3_next", 8) != asked("qwen3_next", 20), "recurrences are unrolled for it"
    assert asked("phi3", 8) != asked("phi3", 20), "its rotary scaling depends on it"


@pytest.fixture(scope="module")
def bert() -> Any:
    return tiny_model("sequence_classification", "bert")


def test_pairs_and_their_segments(bert: Any) -> None:
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    bert.config.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    model = QEFFAutoModelForSequenceClassification(bert, tokenizer=tokenizer)
    model.compile(target="cpu", precision="fp32", seq_len=64, batch_size=2)
    ids, segments = [1, 20, 21, 22, 30, 31], [0, 0, 0, 0, 1, 1]
    given = {"input_ids": [ids, ids], "token_type_ids": [segments, [0] * 6], "attention_mask": [[1] * 6, [1] * 6]}
    with torch.no_grad():
        wanted = bert(**{name: torch.tensor(rows) for name, rows in given.items()}).logits.numpy()
    np.testing.assert_allclose(model.generate(given)["logits"], wanted, atol=1e-4)
    np.testing.assert_allclose(model.generate([ids])["logits"], wanted[1:], atol=1e-4)
    pair = tokenizer("My name", "Paris", return_tensors="pt")
    with torch.no_grad():
        wanted = bert(**pair).logits.numpy()
    np.testing.assert_allclose(model.generate([("My name", "Paris")])["logits"], wanted, atol=1e-4)
    np.testing.assert_allclose(model.generate(pair)["logits"], wanted, atol=1e-4)
    with from_package(model.qpc_path) as package:
        assert package.labels == ["no", "yes", "perhaps"]
        scores = package.scores(wanted)
        np.testing.assert_allclose(scores, torch.softmax(torch.tensor(wanted), 1).numpy(), atol=1e-6)
    with pytest.raises(OptionError, match="Only a model of one label ranks"):
        model.rank("a", ["b"])


def test_rank() -> None:
    from transformers import BertForSequenceClassification

    base = tiny_model("sequence_classification", "bert")
    config = type(base.config).from_dict({**base.config.to_dict(), "id2label": {0: "LABEL_0"}})
    torch.manual_seed(0)
    hf = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        hf.classifier.weight.normal_(0.0, 2.0)
    tokenizer = tiny_models.tiny_tokenizer()
    model = QEFFAutoModelForSequenceClassification(hf, tokenizer=tokenizer)
    model.compile(target="cpu", precision="fp32", seq_len=64)
    documents = ["Paris", "The card", "My name is John"]
    ranked = model.rank("What is the capital", documents)
    pairs = [tokenizer("What is the capital", document, return_tensors="pt") for document in documents]
    with torch.no_grad():
        wanted = [torch.sigmoid(hf(**pair).logits)[0, 0].item() for pair in pairs]
    assert [index for index, _ in ranked] == sorted(range(3), key=lambda index: -wanted[index])
    np.testing.assert_allclose([score for _, score in ranked], sorted(wanted, reverse=True), atol=1e-5)


def test_the_loader_takes_the_class_that_the_config_names(bert: Any, tmp_path: Any) -> None:
    bert.save_pretrained(tmp_path)
    assert isinstance(QEFFCommonLoader.from_pretrained(tmp_path), QEFFAutoModelForSequenceClassification)


def test_without_weights_nothing_is_measured() -> None:
    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_classification import prepare_classifier

    with pytest.raises(UnsupportedModel, match=r"FNetForSequenceClassification takes padding .*from_pretrained\(\)"):
        prepare_classifier(tiny_model("sequence_classification", "fnet").to("meta"), SequenceUse(32))
