"""Text-to-text models against Hugging Face, and what is their own: two graphs' worth of state, forced tokens."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures.reference import prompts, reference
from architectures.tiny import tiny_model

import QEfficient
from QEfficient import QEFFAutoModelForSeq2SeqLM
from QEfficient.errors import CapacityError, CorruptCheckpoint, OptionError
from QEfficient.tasks import auto_class_for_config
from QEfficient.transformers.tasks.seq2seq_lm import seq2seq_graph

NAMES = ("bart", "t5")
"""Positions that are learned, and biases by distance."""
SIZES: dict[str, Any] = {"encoder_ctx_len": 80, "ctx_len": 40, "precision": "fp32"}


@cache
def load(name: str) -> Any:
    return tiny_model("seq2seq", name)


@cache
def expected(name: str) -> list[list[int]]:
    return [answer.tokens for answer in reference(load(name), prompts(load(name).config))]


def answers(model: QEFFAutoModelForSeq2SeqLM, asked: Any, **options: Any) -> list[list[int]]:
    return [ids.tolist() for ids in model.generate(asked, generation_len=32, **options).generated_ids]


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize("name", NAMES)
def test_more_prompts_than_rows_get_hugging_faces_tokens(name: str, target: str) -> None:
    model = QEFFAutoModelForSeq2SeqLM(load(name))
    model.compile(target=target, batch_size=2, **SIZES)
    with model:
        assert answers(model, prompts(load(name).config)) == expected(name)


def test_continuous_batching_reads_texts_one_by_one() -> None:
    model = QEFFAutoModelForSeq2SeqLM(load("t5"))
    package = model.compile(target="cloud-ai-100-sim", full_batch_size=2, **SIZES)
    asked = prompts(load("t5").config)
    with QEFFAutoModelForSeq2SeqLM.from_package(package) as opened:
        assert answers(opened, asked[::-1]) == expected("t5")[::-1]


@pytest.fixture(scope="module")
def bart() -> Any:
    model = QEFFAutoModelForSeq2SeqLM(load("bart"))
    model.compile(target="cpu", **SIZES)
    with model:
        yield model


def test_forced_tokens_are_those_of_transformers(bart: QEFFAutoModelForSeq2SeqLM) -> None:
    ids = prompts(load("bart").config)[1]
    forced = {"forced_bos_token_id": 9, "forced_eos_token_id": 4}
    output = load("bart").generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=8, do_sample=False, **forced
    )
    found = bart.generate([ids], generation_len=8, **forced).generated_ids[0].tolist()
    assert found == output[0, 1:].tolist()
    assert (found[0], found[-1]) == (9, 4)


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
def test_banned_tokens_are_those_of_transformers(target: str) -> None:
    """Marian's checkpoints ban their padding token, which the model predicts everywhere."""
    hf = copy.deepcopy(load("bart"))
    first, second, third = expected("bart")[1][:3]
    hf.generation_config.bad_words_ids = [[first], [second, third]]
    allowed = [answer.tokens for answer in reference(hf, prompts(hf.config))]
    assert allowed != expected("bart")
    model = QEFFAutoModelForSeq2SeqLM(hf)
    package = model.compile(target=target, batch_size=2, **SIZES)
    with QEFFAutoModelForSeq2SeqLM.from_package(package) as opened:
        assert answers(opened, prompts(hf.config)) == allowed


def test_banned_tokens_are_checked_before_the_export() -> None:
    hf = copy.deepcopy(load("bart"))
    hf.generation_config.bad_words_ids = [[9], [320]]
    with pytest.raises(CorruptCheckpoint, match="bad_words_ids has the token id 320, and the model's go from 0 to 319"):
        QEFFAutoModelForSeq2SeqLM(hf).compile(target="cpu", **SIZES)


def test_one_value_of_an_option_a_prompt(bart: QEFFAutoModelForSeq2SeqLM) -> None:
    asked = prompts(load("bart").config)[:2]
    found = bart.generate(asked, generation_len=2, forced_bos_token_id=[7, 8]).generated_ids
    assert [ids[0] for ids in found] == [7, 8]


@pytest.mark.parametrize(
    ("text", "error", "says"), [([5] * 81, CapacityError, "Prompt 1 has 81"), ([320], OptionError, "0 to 319")]
)
def test_a_text_that_cannot_be_read(
    bart: QEFFAutoModelForSeq2SeqLM, text: list[int], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        bart.generate([[5], text])


def test_positions_end_where_the_model_says() -> None:
    with pytest.raises(CapacityError, match="encoder_ctx_len=513 is beyond the 512"):
        QEFFAutoModelForSeq2SeqLM(load("bart")).compile(target="cpu", encoder_ctx_len=513)
    QEFFAutoModelForSeq2SeqLM(load("t5")).transform(target="cpu", encoder_ctx_len=513)  # it knows distances only


def test_the_graph_has_upstreams_names() -> None:
    graph = seq2seq_graph(load("bart"), 40)
    names = [given.name for given in graph.inputs]
    state = [
        f"past_{part}_{whose}.{layer}" for layer in (0, 1) for whose in ("self", "cross") for part in ("key", "value")
    ]
    assert names == ["input_ids", "position_ids", "encoder_input_ids", "encoder_lens", *state]
    assert graph.output_names == ["logits", *(f"{name}_RetainedState" for name in state)]


def test_cards_and_models_of_the_kind_are_found(tmp_path: Path) -> None:
    load("t5").save_pretrained(tmp_path)
    assert isinstance(QEfficient.QEFFCommonLoader.from_pretrained(tmp_path), QEFFAutoModelForSeq2SeqLM)
    assert isinstance(QEfficient.transform(load("t5")), QEfficient.QEffAutoModelForSeq2SeqLM)
    config = load("bart").config
    config_of_a_classifier = type(config)(architectures=["BartForSequenceClassification"])
    assert auto_class_for_config(config_of_a_classifier) is not QEFFAutoModelForSeq2SeqLM
