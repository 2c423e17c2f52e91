"""Folders in sentence-transformers' layout, read without a word about pooling: the same vectors as its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModel, from_package
from QEfficient.errors import CapacityError, CorruptCheckpoint, OptionError, UnsupportedModel

sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers.sentence_transformer import modules  # noqa: E402

pytestmark = pytest.mark.xdist_group("text_pipeline")  # one worker makes its models
TEXTS = ["My name is John", "What is the capital of France?", "Paris", "The library takes a checkpoint from the hub."]
LONG = "The assistant answers, and the user asks more. " * 9
OPTIONS: dict[str, Any] = {"target": "cpu", "precision": "fp32", "num_threads": 1, "batch_size": 3, "seq_len": [16, 48]}
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def write(folder: Path, *after: Any, encoder: Any = None, max_len: int = 40, **settings: Any) -> Any:
    """A folder that sentence-transformers saved, and its model: a tiny BERT with these modules after it."""
    tiny_models.save(tiny_models.encoder() if encoder is None else encoder, folder / "plain")
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = None  # sentence-transformers would make chats of texts
    tokenizer.save_pretrained(folder / "plain")
    transformer = modules.Transformer(str(folder / "plain"), max_seq_length=max_len)
    model = sentence_transformers.SentenceTransformer(modules=[transformer, *after], device="cpu", **settings)
    model.save_pretrained(str(folder / "saved"))
    return sentence_transformers.SentenceTransformer(str(folder / "saved"), device="cpu")


def width() -> int:
    return int(tiny_models.encoder().config.hidden_size)


def test_all_poolings_put_together(tmp_path: Path) -> None:
    theirs = write(tmp_path, modules.Pooling(width(), MODES[::-1]))
    with QEFFAutoModel.from_pretrained(tmp_path / "saved") as model:
        model.compile(**OPTIONS)
        ours = model.encode(TEXTS)
    assert ours.shape == (len(TEXTS), len(MODES) * width())
    np.testing.assert_allclose(ours, theirs.encode(TEXTS), atol=1e-4)


def test_the_last_token_of_a_language_model(tmp_path: Path) -> None:
    decoder = tiny_models.causal_lm("qwen2")
    theirs = write(tmp_path, modules.Pooling(decoder.config.hidden_size, "lasttoken"), encoder=decoder)
    with QEFFAutoModel.from_pretrained(tmp_path / "saved") as model:
        model.compile(**OPTIONS)
        ours = model.encode(TEXTS)
    np.testing.assert_allclose(ours, theirs.encode(TEXTS), atol=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with all that one may have, sentence-transformers' model of it, and ours, compiled."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    after = [modules.Pooling(width(), ("mean", "lasttoken")), modules.Dense(2 * width(), 24), modules.Normalize()]
    prompts = {"query": "Question: ", "document": "", "fact": "A fact about the hub: "}
    theirs = write(folder, *after, prompts=prompts, default_prompt_name="query", similarity_fn_name="euclidean")
    with QEFFAutoModel.from_pretrained(folder / "saved") as model:
        model.compile(**OPTIONS)
        yield folder / "saved", theirs, model


def test_prompts_layers_and_similarity(whole: Any) -> None:
    _, theirs, model = whole
    for options in ({}, {"prompt_name": "fact"}, {"prompt": ""}, {"prompt": "Say: "}, {"normalize_embeddings": True}):
        ours, expected = model.encode(TEXTS, **options), theirs.encode(TEXTS, **options)
        assert (ours * expected).sum(1).min() >= 0.99999
        np.testing.assert_allclose(model.similarity(ours, ours), theirs.similarity(expected, expected), atol=2e-3)
    cut = {"truncate_dim": 8, "normalize_embeddings": True}
    np.testing.assert_allclose(model.encode(TEXTS, **cut), theirs.encode(TEXTS, **cut), atol=1e-4)
    assert model.prompts == theirs.prompts


def test_a_package_needs_no_checkpoint(whole: Any) -> None:
    _, theirs, model = whole
    with from_package(model.qpc_path) as package:
        np.testing.assert_allclose(package.encode(TEXTS), theirs.encode(TEXTS), atol=1e-4)
        assert package.prompts == theirs.prompts
        np.testing.assert_array_equal(package.encode(TEXTS, batch_size=1), package.encode(TEXTS))


def test_forms(whole: Any) -> None:
    _, _, model = whole
    vectors = model.encode(TEXTS)
    assert model.encode(TEXTS[0]).shape == (24,)
    assert model.encode([]).shape == model.generate([])["output"].shape == (0, 24)
    tensor = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), vectors)
    # Generating takes texts as they are: without the default prompt.
    np.testing.assert_allclose(model.generate(TEXTS)["output"], model.encode(TEXTS, prompt=""), atol=1e-6)


def test_long_texts_are_cut_as_there_and_never_silently(whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, theirs, model = whole
    model.close()  # the first run of an open package warns
    with caplog.at_level(logging.WARNING, "QEfficient"):
        np.testing.assert_allclose(model.encode([LONG, "Paris"]), theirs.encode([LONG, "Paris"]), atol=1e-4)
        model.encode([LONG])
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("QEfficient")]
    assert ours == ["1 of 2 texts are cut to the model's 40 tokens."]
    with from_package(model.qpc_path) as package:
        np.testing.assert_allclose(package.encode([LONG]), theirs.encode([LONG]), atol=1e-4)
    np.testing.assert_array_equal(model.encode([LONG], truncation=True), model.encode([LONG]))
    for call in (lambda: model.encode([LONG], truncation=False), lambda: model.generate([LONG])):
        with pytest.raises(CapacityError, match="nothing is cut silently"):
            call()
    with pytest.raises(CapacityError, match="Token ids longer than 40"):
        model.encode([[5] * 45])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_nam": "query"}, "Did you mean 'prompt_name'"),
        ({"prompt_name": "querry"}, "Did you mean 'query'"),
        ({"prompt_name": "query", "prompt": "x"}, "pass one"),
        ({"truncate_dim": 25}, "vectors have 24"),
        ({"batch_size": 0}, "1 or more"),
    ],
)
def test_options_that_are_refused(whole: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        whole[2].encode(TEXTS, **options)


def test_hidden_states_of_the_same_folder(whole: Any) -> None:
    with QEFFAutoModel.from_pretrained(whole[0], pooling=None) as model:
        model.compile(**OPTIONS)
        assert model.generate(TEXTS[:1])["output"].shape[2:] == (width(),)
        with pytest.raises(OptionError, match="gives hidden states"):
            model.encode(TEXTS)


def test_the_card_and_what_was_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = write(tmp_path, modules.Pooling(width(), "weightedmean"), modules.Normalize())
    with caplog.at_level(logging.INFO, "QEfficient"):
        model = QEFFAutoModel.from_pretrained(tmp_path / "saved")
    assert "pooling weightedmean -> Normalize()" in caplog.text
    with model:
        model.compile(target="cloud-ai-100-sim", seq_len=48, batch_size=2)
        assert (model.encode(TEXTS) * theirs.encode(TEXTS)).sum(1).min() >= 0.999
        with pytest.raises(OptionError, match="compiled for 2"):
            model.encode(TEXTS, batch_size=4)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    write(tmp_path, modules.Pooling(width()))
    folder = tmp_path / "saved"
    pooling, kinds = folder / "1_Pooling" / "config.json", folder / "modules.json"
    pooling.write_text(json.dumps({"pooling_mode": "median"}))
    with pytest.raises(CorruptCheckpoint, match="pooling_mode must be of"):
        QEFFAutoModel.from_pretrained(folder)
    pooling.write_text(json.dumps({"include_prompt": False}))
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(**OPTIONS)
        with pytest.raises(OptionError, match="leaves the prompt's tokens out"):
            model.encode(TEXTS, prompt="Say: ")
    kinds.write_text(json.dumps([*json.loads(kinds.read_text()), {"path": "2_LSTM", "type": "x.LSTM"}]))
    with pytest.raises(UnsupportedModel, match="Transformer, Pooling, LSTM"):
        QEFFAutoModel.from_pretrained(folder)


def test_upper_case_and_switches_of_older_versions(tmp_path: Path) -> None:
    write(tmp_path, modules.Pooling(width()))
    folder = tmp_path / "saved"
    switches = {"word_embedding_dimension": width(), "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": True}))
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    with QEFFAutoModel.from_pretrained(folder) as model:
        model.compile(**OPTIONS)
        package, texts = model.qpc_path, [*TEXTS, LONG]
        np.testing.assert_allclose(model.encode(texts), theirs.encode(texts), atol=1e-4)
        np.testing.assert_array_equal(model.encode("PARIS"), model.encode("paris"))
    with from_package(package) as opened:
        np.testing.assert_array_equal(opened.encode("PARIS"), opened.encode("paris"))
