"""Options of ``generate`` against Hugging Face's ``generate``, token for token: each on three kinds of models, with one
prompt and with several; what a checkpoint's generation config and a caller's say; a caller's functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from architectures.tiny import tiny_model
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, TextStreamer
from transformers.generation import LogitsProcessor, StoppingCriteria

from QEfficient import QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM
from QEfficient.errors import CapacityError, CorruptCheckpoint, OptionError

NAMES = ["llama", "mamba", "t5"]
"""Attention over pages, a recurrence, and an encoder with a decoder."""
MORE = ["gpt2", "bloom", "bart"]
LENS, MOST = (5, 12, 9), 14


@dataclass(frozen=True)
class Pair:
    """A model in Hugging Face and compiled, with a tokenizer."""

    hf: Any
    ours: Any

    @property
    def is_seq2seq(self) -> bool:
        return bool(self.hf.config.is_encoder_decoder)

    @cached_property
    def prompts(self) -> list[list[int]]:
        random = np.random.default_rng(7)
        return [random.integers(10, 250, length).tolist() for length in LENS]

    @cached_property
    def plain(self) -> list[list[int]]:
        """Answers without options."""
        return [self.expected(ids, max_new_tokens=MOST) for ids in self.prompts]

    def expected(self, ids: list[int], **options: Any) -> list[int]:
        begin = 1 if self.is_seq2seq else len(ids)
        mask = torch.ones(1, len(ids), dtype=torch.int64)
        with torch.no_grad():
            output = self.hf.generate(torch.tensor([ids]), attention_mask=mask, pad_token_id=0, **options)
        return output[0, begin:].tolist()

    def answers(self, prompts: Any, **options: Any) -> list[list[int]]:
        return [ids.tolist() for ids in self.ours.generate(prompts, **options).generated_ids]


def make(name: str, **entries: Any) -> Pair:
    is_seq2seq = name in ("t5", "bart")
    if is_seq2seq or name == "mamba":
        hf = tiny_model("seq2seq" if is_seq2seq else "causal_lm", name)
    else:
        hf = tiny_models.causal_lm(name)
    hf.generation_config = GenerationConfig(
        pad_token_id=0,
        decoder_start_token_id=hf.generation_config.decoder_start_token_id,
        **{"eos_token_id": 2, **entries},
    )
    kind: Any = QEFFAutoModelForSeq2SeqLM if is_seq2seq else QEFFAutoModelForCausalLM
    ours = kind(hf, tokenizer=tiny_models.tiny_tokenizer())
    sizes = {"encoder_ctx_len": 48} if is_seq2seq else {"prefill_seq_len": 16}
    ours.compile(target="cpu", ctx_len=64, full_batch_size=2, precision="fp32", **sizes)
    return Pair(hf, ours)


PAIRS: dict[str, Pair] = {}


def pair_of(name: str) -> Pair:
    """One for all tests of a worker."""
    if name not in PAIRS:
        PAIRS[name] = make(name)
    return PAIRS[name]


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    while PAIRS:
        PAIRS.popitem()[1].ours.close()


def drawn(**options: Any) -> Callable[[list[int]], dict[str, Any]]:
    """Sampling that leaves one token."""
    return lambda plain: {"do_sample": True, **options}


CASES: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "max_length": lambda plain: {"max_new_tokens": None, "max_length": 20},
    "max_new_tokens before max_length": lambda plain: {"max_length": 40},
    "eos_token_id": lambda plain: {"eos_token_id": plain[3]},
    "eos_token_ids": lambda plain: {"eos_token_id": [plain[6], plain[4], 319]},
    "min_new_tokens": lambda plain: {"min_new_tokens": 8, "eos_token_id": [plain[1], plain[5]]},
    "min_length": lambda plain: {"min_length": 17, "eos_token_id": [plain[1], plain[5]]},
    "repetition_penalty": lambda plain: {"repetition_penalty": 1.4},
    "encoder_repetition_penalty": lambda plain: {"encoder_repetition_penalty": 1.7},
    "no_repeat_ngram_size": lambda plain: {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size of 2": lambda plain: {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": lambda plain: {
        "encoder_no_repeat_ngram_size": 2,
        "encoder_repetition_penalty": 8.0,
    },
    "bad_words_ids": lambda plain: {"bad_words_ids": [[plain[0]], plain[2:4], plain[4:8], [2]]},
    "sequence_bias": lambda plain: {"sequence_bias": {(plain[0],): -9.0, tuple(plain[3:5]): -9.0, (11, 12): 3.0}},
    "sequence_bias as a list": lambda plain: {"sequence_bias": [[[plain[1]], -9.0], [[20], 0.25]]},
    "suppress_tokens": lambda plain: {"suppress_tokens": [plain[0], plain[2], plain[5]]},
    "begin_suppress_tokens": lambda plain: {"begin_suppress_tokens": [plain[0], plain[1]]},
    "begin_suppress_tokens after a forced one": lambda plain: {
        "begin_suppress_tokens": [plain[0], plain[1]],
        "forced_bos_token_id": 33,
    },
    "forced_bos_token_id": lambda plain: {"forced_bos_token_id": 33},
    "forced_eos_token_id": lambda plain: {"forced_eos_token_id": 2},
    "forced_eos_token_ids": lambda plain: {"forced_eos_token_id": [77, 5]},
    "exponential_decay_length_penalty": lambda plain: {"exponential_decay_length_penalty": (3, 1.6)},
    "all of them": lambda plain: {
        "repetition_penalty": 1.2,
        "encoder_repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[plain[1]], plain[2:4]],
        "sequence_bias": {(plain[0],): -2.0, (30,): 0.5},
        "min_new_tokens": 4,
        "suppress_tokens": [plain[5]],
        "begin_suppress_tokens": [plain[0]],
        "exponential_decay_length_penalty": (6, 1.3),
        "eos_token_id": [2, plain[3]],
    },
    "top_k": drawn(top_k=1),
    "top_p": drawn(top_p=1e-6),
    "min_p": drawn(min_p=1.0),
    "typical_p": drawn(typical_p=1e-6, top_k=3),
    "epsilon_cutoff": drawn(epsilon_cutoff=0.999),
    "eta_cutoff": drawn(eta_cutoff=0.999, temperature=1e-4),
    "temperature": drawn(temperature=1e-5, top_k=50),
    "drawn, with penalties": drawn(top_k=1, repetition_penalty=1.4, no_repeat_ngram_size=2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.sweep) for name in MORE)])
def test_options_are_hugging_faces(name: str, case: str) -> None:
    pair = pair_of(name)
    options = {"max_new_tokens": MOST, **CASES[case](pair.plain[0])}
    expected = [pair.expected(ids, **options) for ids in pair.prompts]
    assert pair.answers(pair.prompts, **options) == expected
    assert pair.answers(pair.prompts[0], **options) == expected[:1]


@pytest.mark.parametrize("name", NAMES)
def test_most_options_have_an_effect(name: str) -> None:
    """Or the test above would say little."""
    pair = pair_of(name)
    plain = pair.plain[0]
    same = {
        case
        for case in CASES
        if pair.answers(pair.prompts[0], **{"max_new_tokens": MOST, **CASES[case](plain)}) == [plain]
    }
    greedy = {"top_k", "top_p", "min_p", "temperature", "epsilon_cutoff", "eta_cutoff"}
    assert same - greedy - {"max_new_tokens before max_length"} <= RARE


RARE = {
    *("max_length", "forced_bos_token_id", "typical_p", "encoder_no_repeat_ngram_size"),
    *("repetition_penalty", "no_repeat_ngram_size", "no_repeat_ngram_size of 2", "drawn, with penalties"),
}
"""Cases without effect in an answer that repeats nothing, of a model without a decoder's start token, or by chance."""


def entries(plain: list[int]) -> dict[str, Any]:
    return {
        "max_length": 19,
        "min_new_tokens": 3,
        "eos_token_id": [2, plain[1], plain[9]],
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.1,
        "encoder_repetition_penalty": 1.2,
        "bad_words_ids": [[plain[4]], plain[2:4]],
        "sequence_bias": [[[plain[0]], -1.0]],
        "suppress_tokens": [plain[6]],
        "begin_suppress_tokens": [plain[0]],
        "forced_eos_token_id": 5,
        "exponential_decay_length_penalty": [9, 1.2],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoints_entries_are_followed(name: str) -> None:
    """All at once; and those that a caller sets go before them."""
    plain = pair_of(name).plain[0]
    pair = make(name, **entries(plain))
    expected = [pair.expected(ids) for ids in pair.prompts]
    assert pair.answers(pair.prompts) == expected
    assert expected[0] != plain[: len(expected[0])]
    options = {"no_repeat_ngram_size": 1, "suppress_tokens": [20], "max_new_tokens": 6, "min_length": 9}
    assert pair.answers(pair.prompts, **options) == [pair.expected(ids, **options) for ids in pair.prompts]
    pair.ours.close()


def test_a_checkpoint_that_allows_fewer_tokens_than_a_prompt_has() -> None:
    pair = make("llama", max_length=9)
    assert len(pair.answers(pair.prompts[0])[0]) == 9 - LENS[0]
    with pytest.raises(CapacityError, match=r"12 tokens, and max_length=9.*max_new_tokens"):
        pair.ours.generate(pair.prompts)
    assert [len(ids) for ids in pair.answers(pair.prompts, max_new_tokens=3)] == [3, 3, 3]
    pair.ours.close()


@pytest.mark.parametrize(
    "entry",
    [{"min_length": "x"}, {"suppress_tokens": 7}, {"stop_strings": [3]}, {"sequence_bias": [[3, 1.0]]}],
    ids=str,
)
def test_a_checkpoints_damaged_entry(entry: dict[str, Any]) -> None:
    from QEfficient.generation_config import check_generation_config

    (name,) = entry
    with pytest.raises(CorruptCheckpoint, match=f"here: {name} must be"):
        check_generation_config(entry, "here", CorruptCheckpoint, 320)


@pytest.fixture
def llama() -> Pair:
    return pair_of("llama")


@pytest.mark.parametrize("form", ["object", "dict", "folder", "file"])
def test_a_callers_generation_config(llama: Pair, form: str, tmp_path: Path) -> None:
    """Over the checkpoint's, and under keyword arguments."""
    values = {"max_new_tokens": 9, "no_repeat_ngram_size": 1, "eos_token_id": [2, llama.plain[0][5]], "num_beams": 1}
    config = GenerationConfig(**values)
    config.save_pretrained(tmp_path)
    forms = {"object": config, "dict": values, "folder": tmp_path, "file": str(tmp_path / "generation_config.json")}
    ids = llama.prompts[0]
    assert llama.answers(ids, generation_config=forms[form]) == [llama.expected(ids, generation_config=config)]
    for name in ("max_new_tokens", "generation_len"):
        less = llama.answers(ids, generation_config=forms[form], **{name: 4})
        assert less == [llama.expected(ids, **{**values, "max_new_tokens": 4})]


def test_a_config_samples_if_it_says_so(llama: Pair) -> None:
    greedy, ids = llama.plain[0][:6], llama.prompts[0]
    for more in ({}, {"do_sample": False}):
        config = GenerationConfig(temperature=9.0, max_new_tokens=6, **more)
        assert llama.answers(ids, generation_config=config) == [greedy]
    config = GenerationConfig(temperature=9.0, do_sample=True, max_new_tokens=6)
    assert llama.answers(ids, generation_config=config, seed=1) == llama.answers(
        ids, temperature=9.0, max_new_tokens=6, seed=1
    )
    assert llama.answers(ids, generation_config=config, do_sample=False) == [greedy]


class Boost(LogitsProcessor):
    """A processor of transformers', of whatever the last token was."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(1, (input_ids[:, -1] + 1) % scores.shape[1], torch.full((len(scores), 1), 0.4))


def boost(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    assert scores.dtype == np.float32
    scores[0, (input_ids[0, -1] + 1) % scores.shape[1]] += 0.4
    return scores


class Divisible(StoppingCriteria):
    def __call__(self, input_ids: torch.LongTensor, scores: Any, **more: Any) -> torch.Tensor:
        return input_ids[:, -1] % 5 == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_callers_functions(name: str) -> None:
    """Transformers' classes get tensors, and plain functions arrays."""
    pair = pair_of(name)
    theirs = {
        "logits_processor": LogitsProcessorList([Boost()]),
        "stopping_criteria": StoppingCriteriaList([Divisible()]),
    }
    plain = {"logits_processor": boost, "stopping_criteria": lambda ids, scores: ids[0, -1] % 5 == 0}
    for more in ({}, {"repetition_penalty": 1.3}):
        expected = [pair.expected(ids, max_new_tokens=MOST, **more, **theirs) for ids in pair.prompts]
        for functions in (theirs, plain):
            info = pair.ours.generate(pair.prompts, max_new_tokens=MOST, **more, **functions)
            assert [ids.tolist() for ids in info.generated_ids] == expected
            stops = [ids[-1] % 5 == 0 or ids[-1] == 2 for ids in expected]
            assert info.finish_reasons == ["stop" if stop else "length" for stop in stops]


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ({"logits_processor": lambda ids, scores: scores[0]}, r"returned a ndarray of shape \[320\].*\[1, 320\]"),
        ({"logits_processor": lambda ids, scores: None}, "returned None"),
        ({"stopping_criteria": lambda ids, scores: ids > 3}, "expected one True or False"),
        ({"logits_processor": 5}, "must be a function"),
    ],
)
def test_functions_that_return_something_else(llama: Pair, functions: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        llama.ours.generate(llama.prompts[0], max_new_tokens=3, **functions)
    assert llama.answers(llama.prompts[0], max_new_tokens=3) == [llama.plain[0][:3]]


@pytest.mark.parametrize("name", NAMES)
def test_stop_strings_end_where_hugging_faces_do(name: str) -> None:
    """Texts of one token and of parts of several; some come in the middle of a token, or never."""
    pair, tokenizer = pair_of(name), tiny_models.tiny_tokenizer()
    text = tokenizer.decode(pair.plain[0])
    places = [(2, 3), (4, 7), (1, 5), (8, 9)]
    asked = [[text[begin:end]] for begin, end in places if text[begin:end].isascii() and text[begin:end]]
    for strings in [*asked, ["no such text"], [text[3:5] or "a", "e", "qu"], "a", ["</s>", "é"]]:
        info = pair.ours.generate(pair.prompts, max_new_tokens=MOST, stop_strings=strings)
        expected = [
            pair.expected(ids, max_new_tokens=MOST, stop_strings=strings, tokenizer=tokenizer) for ids in pair.prompts
        ]
        assert [ids.tolist() for ids in info.generated_ids] == expected, strings
        is_cut = [len(ids) < MOST for ids in expected]
        assert [reason == "stop" for reason in info.finish_reasons if reason] >= is_cut


def test_streamed_text_has_the_stop_string_and_nothing_after_its_token(llama: Pair) -> None:
    text = llama.ours.generate(llama.prompts[0], max_new_tokens=MOST).generated_texts[0]
    options = {"max_new_tokens": MOST, "stop_strings": text[4:6]}
    whole = llama.ours.generate(llama.prompts[0], **options).generated_texts[0]
    assert "".join(llama.ours.stream(llama.prompts[0], **options)) == whole
    assert text.startswith(whole)
    assert len(text[:6]) <= len(whole) < len(text)


class Recorder:
    """What transformers' streamers are, without their base class."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def put(self, value: Any) -> None:
        self.calls.append(value)

    def end(self) -> None:
        self.calls.append(None)


@pytest.mark.parametrize("name", NAMES)
def test_a_streamer_gets_what_hugging_face_gives_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pair = pair_of(name)
    ours, theirs, ids = Recorder(), Recorder(), pair.prompts[1]
    pair.ours.generate(ids, max_new_tokens=5, streamer=ours)
    pair.expected(ids, max_new_tokens=5, streamer=theirs)
    assert [None if each is None else each.tolist() for each in ours.calls] == [
        None if each is None else each.tolist() for each in theirs.calls
    ]
    shown = []
    for run in (pair.ours.generate, pair.expected):
        capsys.readouterr()
        run(ids, max_new_tokens=5, streamer=TextStreamer(tiny_models.tiny_tokenizer()))
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_streamer_takes_one_answer(llama: Pair, prompts: int) -> None:
    options = {"num_return_sequences": 2, "do_sample": True} if prompts == 1 else {}
    with pytest.raises(OptionError, match="takes one answer, and 2"):
        llama.ours.generate(llama.prompts[:prompts], streamer=Recorder(), **options)
    with pytest.raises(OptionError, match="put"):
        llama.ours.generate(llama.prompts[0], streamer=print)


def test_a_streamer_is_ended_when_generation_fails(llama: Pair) -> None:
    streamer = Recorder()
    with pytest.raises(OptionError):
        llama.ours.generate(llama.prompts[0], streamer=streamer, suppress_tokens=list(range(320)))
    assert [each is None for each in streamer.calls] == [False, True]


def test_several_answers_to_each_prompt(llama: Pair) -> None:
    """They differ, can be repeated, and the first is that of a single one."""
    options = {"temperature": 1.5, "seed": 3, "max_new_tokens": 6}
    several = llama.answers(llama.prompts, num_return_sequences=3, **options)
    assert len({tuple(ids) for ids in several}) == len(several) == 9
    assert several == llama.answers(llama.prompts, num_return_sequences=3, **options)
    assert several[::3] == llama.answers(llama.prompts, **options)
    info = llama.ours.generate(llama.prompts[0], num_return_sequences=2, seed=3, temperature=1.5, max_new_tokens=2)
    assert (len(info.generated_texts), info.finish_reasons) == (2, ["length"] * 2)
    with pytest.raises(OptionError, match="num_return_sequences=2: without sampling"):
        llama.ours.generate(llama.prompts[0], num_return_sequences=2)


@pytest.mark.parametrize("name", NAMES)
def test_logprobs_are_those_of_hugging_faces_logits(name: str) -> None:
    pair, ids = pair_of(name), pair_of(name).prompts[0]
    with torch.no_grad():
        output = pair.hf.generate(
            torch.tensor([ids]), max_new_tokens=5, output_logits=True, return_dict_in_generate=True, suppress_tokens=[3]
        )
    info = pair.ours.generate([ids, ids], max_new_tokens=5, logprobs=[3, None], suppress_tokens=[3])
    answer, nothing = info.logprobs
    assert (len(answer), nothing) == (5, [])
    for one, token, logits in zip(answer, info.generated_ids[0], output.logits, strict=True):
        expected = torch.log_softmax(logits[0].double(), -1)
        assert one.token_id == token
        assert one.logprob == pytest.approx(float(expected[token]), abs=1e-4)
        top = torch.topk(expected, 3)
        assert [value for _, value in one.top] == pytest.approx(top.values.tolist(), abs=1e-4)
    assert pair.ours.generate(ids, max_new_tokens=5).logprobs == []


def test_options_of_each_prompt(llama: Pair) -> None:
    """A list that is no value itself has one for each prompt."""
    each: dict[str, list[Any]] = {
        "no_repeat_ngram_size": [1, None, 2],
        "eos_token_id": [[2], [llama.plain[1][3], 2], llama.plain[2][2]],
        "suppress_tokens": [[llama.plain[0][0]], None, [5, 6]],
        "bad_words_ids": [None, [[llama.plain[1][1]]], [[9, 9]]],
        "sequence_bias": [{(5,): 1.0}, None, {(6,): 1.0}],
    }
    expected = [
        llama.answers(ids, max_new_tokens=9, **{name: values[index] for name, values in each.items()})[0]
        for index, ids in enumerate(llama.prompts)
    ]
    assert llama.answers(llama.prompts, max_new_tokens=9, **each) == expected
    assert llama.answers(llama.prompts, max_new_tokens=[1, 2, 3], eos_token_id=[2, 3]) == [
        plain[:length] for plain, length in zip(llama.plain, [1, 2, 3], strict=True)
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 5}, "'max_tokens'. Did you mean 'max_new_tokens'"),
    ({"stop": "a"}, "'stop'. Did you mean 'stop_strings'"),
    ({"n": 2}, "Did you mean 'num_return_sequences'"),
    ({"stoping_criteria": print}, "Did you mean 'stopping_criteria'"),
    ({"num_beams": 4}, "num_beams=4: generate"),
    ({"penalty_alpha": 0.6}, "penalty_alpha=0.6: generate"),
    ({"generation_len": 3, "max_new_tokens": 4}, "generation_len=3 and max_new_tokens=4"),
    ({"max_new_tokens": 0}, "must be a whole number of at least 1"),
    ({"max_length": 5}, "max_length=5"),
    ({"min_new_tokens": -1}, "min_new_tokens must be"),
    ({"eos_token_id": "x"}, "eos_token_id must be"),
    ({"stop_strings": [""]}, "none of them empty"),
    ({"bad_words_ids": [3]}, "a list of lists"),
    ({"bad_words_ids": [[320]]}, "bad_words_ids has the token id 320, and the model's go from 0 to 319"),
    ({"sequence_bias": {5: 1.0}}, "sequence_bias must be"),
    ({"logit_bias": {999: 1.0}}, "logit_bias has the token id 999"),
    ({"logit_bias": {"a": 1.0}}, "logit_bias must be"),
    ({"logit_bias": 5}, "logit_bias must be"),
    ({"forced_eos_token_id": 400}, "forced_eos_token_id has the token id 400"),
    ({"forced_eos_token_id": 7, "suppress_tokens": [7, 8]}, "is in suppress_tokens too"),
    ({"exponential_decay_length_penalty": (3,)}, "must be a pair"),
    ({"exponential_decay_length_penalty": (3, 1.1), "eos_token_id": []}, "there are none"),
    ({"typical_p": 0.0}, "typical_p must be"),
    ({"epsilon_cutoff": 1.0}, "epsilon_cutoff must be"),
    ({"encoder_repetition_penalty": 0}, "encoder_repetition_penalty must be"),
    ({"presence_penalty": float("nan")}, "presence_penalty must be"),
    ({"logprobs": True}, "logprobs must be"),
    ({"num_return_sequences": 0}, "num_return_sequences must be"),
    ({"generation_config": 3}, "generation_config must be"),
    ({"generation_config": {"temprature": 1.0}}, "'temprature'. Did you mean 'temperature'"),
    ({"generation_config": {"num_beams": 2}}, "num_beams=2"),
    ({"generation_config": "/nowhere"}, "cannot be read"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=str)
def test_what_is_refused_before_the_model_runs(
    llama: Pair, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = llama.ours._open()
    monkeypatch.setattr(compiled.engine, "run", None)
    with pytest.raises((OptionError, CapacityError)) as caught:
        llama.ours.generate(llama.prompts[0], **options)
    assert says in str(caught.value)


def test_neutral_values_of_what_is_not_followed(llama: Pair) -> None:
    assert llama.answers(llama.prompts[0], max_new_tokens=3, num_beams=1, guidance_scale=None) == [llama.plain[0][:3]]


def test_the_longer_of_two_lengths_is_said(llama: Pair, caplog: pytest.LogCaptureFixture) -> None:
    llama.answers(llama.prompts[0], max_new_tokens=3, max_length=40)
    assert "max_new_tokens=3 takes precedence over max_length=40" in caplog.text


def test_a_chat_ends_at_the_tokenizers_end_token_too(caplog: pytest.LogCaptureFixture) -> None:
    """Many checkpoints name only one of the two; a text ends at those of the generation config alone."""
    pair = make("gpt2")
    compiled = pair.ours._open()
    compiled.generation_config["eos_token_id"] = 319
    chat = [{"role": "user", "content": "hello"}]
    push = {"logit_bias": {2: 100.0}, "max_new_tokens": 4}
    with caplog.at_level(logging.INFO, "QEfficient"):
        for _ in range(2):
            info = pair.ours.generate(chat, **push)
            assert (info.generated_ids[0].tolist(), info.finish_reasons) == ([2], ["stop"])
    assert caplog.text.count("In chats, the tokenizer's end token 2 ends answers") == 1
    mixed = pair.ours.generate([chat, "hello"], **push)
    assert ([len(ids) for ids in mixed.generated_ids], mixed.finish_reasons) == ([1, 4], ["stop", "length"])
    only = pair.ours.generate(chat, eos_token_id=319, **push)
    assert only.finish_reasons == ["length"]
    pair.ours.close()
