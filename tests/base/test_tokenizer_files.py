"""Tokenizers that are no single file: they travel as what they wrote, or are refused before anything is compiled. The
model's tokenizer is what runs, also after it was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from architectures.tiny import tiny_model
from click.testing import CliRunner
from slow_tokenizers import SLOW
from transformers import AutoTokenizer, ByT5Tokenizer

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM, from_package
from QEfficient.base.tokenizer_files import save_tokenizer
from QEfficient.cloud.execute import command as execute
from QEfficient.errors import CorruptArtifact, LifecycleError, UnsupportedModel
from QEfficient.generation.tokenizer import open_tokenizer
from QEfficient.transformers.checkpoint.load import load_tokenizer

TARGETS = ["cpu", "cloud-ai-100-sim"]
TEXTS = ["My name is John.", "What is the capital of France?"]


@pytest.fixture
def slow(tmp_path: Path) -> Callable[[str], Any]:
    """Makes a tokenizer; its files are in ``tmp_path``."""
    return lambda kind: SLOW[kind](tmp_path)


@pytest.mark.parametrize("kind", SLOW)
def test_opened_again_it_is_the_same(slow: Callable[[str], Any], tmp_path: Path, kind: str) -> None:
    tokenizer, folder = slow(kind), tmp_path / "tokenizer"
    save_tokenizer(tokenizer, folder, "here")
    assert not (folder / "tokenizer.json").exists()
    opened = open_tokenizer(folder)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert opened.encode(text) == ids
        assert opened.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(opened.stream(ids)) == opened.decode(ids)


@pytest.mark.parametrize("kind", SLOW)
def test_ids_beyond_the_vocabulary(slow: Callable[[str], Any], tmp_path: Path, kind: str) -> None:
    """A model may have more: as nothing, or as unknown tokens."""
    save_tokenizer(slow(kind), tmp_path / "tokenizer", "here")
    opened = open_tokenizer(tmp_path / "tokenizer")
    ids = opened.encode(TEXTS[0])
    beyond = [*ids, 10**6, 10**6 + 1]
    assert opened.decode(beyond).replace("<unk>", "").split() == opened.decode(ids).split()
    assert "".join(opened.stream(beyond)) == opened.decode(beyond)


@pytest.mark.parametrize("target", TARGETS)
def test_a_translator_in_python(slow: Callable[[str], Any], target: str) -> None:
    hf, tokenizer = tiny_model("seq2seq", "m2m_100"), slow("m2m_100")
    for part in (hf.model.encoder, hf.model.decoder):
        del part.layers[1:]
    hf.config.encoder_layers = hf.config.decoder_layers = hf.config.num_hidden_layers = 1
    model = QEFFAutoModelForSeq2SeqLM(hf, tokenizer=tokenizer)
    package = model.compile(target=target, encoder_ctx_len=40, ctx_len=16, batch_size=2, precision="fp32")
    german = tokenizer.get_lang_id("de")
    options = {"forced_bos_token_id": german, "generation_len": 6}

    def expected() -> list[str]:
        rows = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        ids = [hf.generate(**row, forced_bos_token_id=german, max_new_tokens=6, do_sample=False)[0] for row in rows]
        return [tokenizer.decode(row[1:], skip_special_tokens=True) for row in ids]

    english = expected()
    with from_package(package) as opened:
        assert opened.generate(TEXTS, **options).generated_texts == english
    with model:
        assert model.generate(TEXTS, **options).generated_texts == english
        tokenizer.src_lang = "fr"
        french = expected()
        assert french != english
        assert model.generate(TEXTS, **options).generated_texts == french
        assert ["".join(model.stream(text, **options)) for text in TEXTS] == french


@pytest.mark.parametrize("target", TARGETS)
def test_an_encoder_of_words(slow: Callable[[str], Any], target: str) -> None:
    hf, tokenizer = tiny_model("text_encoder", "roberta"), slow("phobert")
    package = QEFFAutoModel(hf, tokenizer=tokenizer).compile(target=target, seq_len=32, batch_size=2, precision="fp32")
    with from_package(package) as opened:
        states = opened.generate(TEXTS)["output"]
    for text, got in zip(TEXTS, states, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        expected = hf(ids).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(got[: len(expected)], expected, atol=1e-3 * abs(expected).max())


@pytest.fixture(scope="module")
def bytes_model() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama", num_hidden_layers=1), tokenizer=ByT5Tokenizer())


@pytest.mark.parametrize("target", TARGETS)
def test_a_language_model_of_bytes(
    bytes_model: QEFFAutoModelForCausalLM, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ByT5Tokenizer()
    package = bytes_model.compile(target=target, ctx_len=32, prefill_seq_len=32, precision="fp32")
    ids = tokenizer(TEXTS[0], return_tensors="pt")
    answer = bytes_model.model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = [str(package), "--prompt", TEXTS[0], "--generation-len", "8", "--json"]
    assert json.loads(CliRunner().invoke(execute, asked).stdout)["answers"][0]["text"] == expected

    def lacking(*args: Any, **options: Any) -> Any:
        raise ImportError("requires the SentencePiece library")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    with from_package(package) as opened:
        with pytest.raises(LifecycleError, match=r"ByT5Tokenizer.*SentencePiece.*qefficient\[slow-tokenizers\]"):
            opened.generate(TEXTS)
        info = opened.generate(ids["input_ids"].tolist(), generation_len=8)
    assert info.generated_ids[0].tolist() == answer[0, ids["input_ids"].shape[1] :].tolist()
    assert info.generated_texts == []


class Shifted(ByT5Tokenizer):
    """A class of the user, which a package does not know."""

    def _convert_token_to_id(self, token: str) -> int:
        return super()._convert_token_to_id(token) + 1


def test_what_cannot_travel_is_refused_before_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = tiny_models.causal_lm("llama", num_hidden_layers=1)
    model = QEFFAutoModelForCausalLM(hf, tokenizer=Shifted())
    monkeypatch.setattr(model, "export_plan", lambda *_: pytest.fail("exported"))
    for target in TARGETS:
        with pytest.raises(UnsupportedModel, match=r"Shifted.*model\.tokenizer = None.*tokenizer=\.\.\."):
            model.compile(target=target, ctx_len=32)


def test_a_package_brings_no_code(slow: Callable[[str], Any], tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    slow("phobert").save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Toy", "auto_map": {"AutoTokenizer": ["toy.Toy", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "toy.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CorruptArtifact, match="code of the checkpoint"):
        open_tokenizer(folder)


@pytest.mark.parametrize("kind", ["m2m_100", "marian"])
@pytest.mark.parametrize("has_config", [True, False])
def test_without_sentencepiece_the_message_names_it(
    slow: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_config: bool
) -> None:
    slow(kind)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    error: Exception = ImportError("MarianTokenizer requires the SentencePiece library")
    if not has_config:  # transformers does not know the class then
        error = ValueError("Unrecognized configuration class")
        monkeypatch.setattr("QEfficient.transformers.checkpoint.load.find_spec", lambda name: None)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(UnsupportedModel, match=r"(?i)sentencepiece.*qefficient\[slow-tokenizers\]"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["phobert", "m2m_100", "marian"])
def test_files_without_a_config_are_a_tokenizer_too(slow: Callable[[str], Any], tmp_path: Path, kind: str) -> None:
    tokenizer = slow(kind)
    config = {"model_type": "roberta" if kind == "phobert" else kind, "tokenizer_class": type(tokenizer).__name__}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load_tokenizer(tmp_path)) is type(tokenizer)


def test_a_changed_chat_template_is_used() -> None:
    tokenizer = tiny_models.tiny_tokenizer()
    hf = tiny_models.causal_lm("llama", num_hidden_layers=1)
    chat = [{"role": "user", "content": "My name is"}]
    with QEFFAutoModelForCausalLM(hf, tokenizer=tokenizer) as model:
        model.compile(target="cpu", ctx_len=64, precision="fp32")
        before = model.generate(chat, generation_len=4).generated_ids[0]
        tokenizer.chat_template = "{{ messages[0].content }} John {{ messages[0].role }}"
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        expected = model.generate([ids], generation_len=4).generated_ids[0]
        after = model.generate(chat, generation_len=4).generated_ids[0]
        model.tokenizer = None
        packed = model.generate(chat, generation_len=4).generated_ids[0]
    assert after.tolist() == expected.tolist() != before.tolist() == packed.tolist()
