"""Sampling is transformers': each step and all of them together give what its own processors give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from QEfficient.errors import CorruptCheckpoint
from QEfficient.generation.logits.history import History
from QEfficient.generation.logits.pipeline import AnswerShape, Pipeline, Sampler, choose_tokens, pipeline_of
from QEfficient.generation.request_builder import RequestBuilder
from QEfficient.generation_config import check_generation_config, entries_without_effect
from QEfficient.generation_options import GenerationOptions

VOCAB = 60
SEEN = [3, 3, 17, 40, 59, 0, 17]

LOGITS = {
    "random": np.random.default_rng(0).normal(0, 4, VOCAB),
    "flat": np.random.default_rng(1).normal(0, 0.01, VOCAB),
    "ties": np.random.default_rng(2).integers(-3, 4, VOCAB).astype(float),
    "all equal": np.full(VOCAB, 1.5),
    "one far ahead": np.where(np.arange(VOCAB) == 17, 3.0e4, -3.0e4),
    "greatest floats": np.random.default_rng(3).choice([-3.4e38, -1.0, 0.0, 1.0, 3.4e38], VOCAB),
    "masked": np.where(np.arange(VOCAB) % 3 == 0, np.random.default_rng(4).normal(0, 2, VOCAB), -np.inf),
}
STEPS: list[dict[str, Any]] = [
    *({"temperature": value} for value in (0.1, 0.7, 1.0, 3.0)),
    *({"top_k": value} for value in (0, 1, 5, VOCAB - 1, VOCAB, 10_000)),
    *({"top_p": value} for value in (1e-6, 0.3, 0.77, 0.95, 1.0)),
    *({"min_p": value} for value in (0.0, 0.05, 0.5, 1.0)),
    *({"repetition_penalty": value} for value in (0.5, 1.0, 1.3, 5.0)),
    {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
    {"temperature": 1.7, "top_k": 40, "top_p": 0.5},
    {"top_p": 0.8, "min_p": 0.2, "repetition_penalty": 0.8},
]


def theirs(logits: np.ndarray, tokens: list[int], options: dict[str, Any]) -> np.ndarray:
    """Probabilities by transformers' processors, in the order of its ``generate``."""
    processors: dict[str, type[LogitsProcessor]] = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for name, processor in processors.items():
        if name in options and not (name == "top_k" and options[name] == 0):
            scores = processor(options[name])(torch.tensor([tokens]), scores)
    return torch.softmax(scores, dim=-1)[0].numpy()


class Chooser:
    """A pipeline that is asked about single rows."""

    def __init__(self, options: GenerationOptions, eos: frozenset[int] = frozenset()):
        shape = AnswerShape(prompt_len=0, max_new_tokens=99, eos_token_ids=eos)
        self.pipeline: Pipeline = pipeline_of(options, shape)
        self._sampler = Sampler(self.pipeline, History([]), options.seed)

    def probabilities(self, logits: np.ndarray, tokens: list[int]) -> np.ndarray:
        return self.pipeline.probabilities(logits[None], [History(tokens)])[0]

    def choose(self, logits: np.ndarray, tokens: list[int]) -> int:
        self._sampler.history = History(tokens)
        return choose_tokens(logits[None], [self._sampler])[0]


def sampler(**options: Any) -> Chooser:
    return Chooser(GenerationOptions.parse({"do_sample": True, "seed": 0, **options}))


def assert_same(logits: np.ndarray, options: dict[str, Any]) -> None:
    """Equal, but for which of several equal tokens stays at the edge of a step: transformers does not say which."""
    ours, expected = sampler(**options).probabilities(logits, SEEN), theirs(logits, SEEN, options)
    case = f"{options} on {logits}"
    np.testing.assert_allclose(np.sort(ours), np.sort(expected), rtol=1e-9, atol=0, err_msg=case)
    np.testing.assert_array_equal(np.sort(logits[ours > 0]), np.sort(logits[expected > 0]), case)
    _, which, counts = np.unique(logits, return_inverse=True, return_counts=True)
    is_alone = counts[which] == 1
    np.testing.assert_allclose(ours[is_alone], expected[is_alone], rtol=1e-9, atol=0, err_msg=case)


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_probabilities_are_transformers(options: dict[str, Any]) -> None:
    for logits in LOGITS.values():
        assert_same(logits, options)


@pytest.mark.parametrize("num_equal", [4, 8])
@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.75])
def test_top_p_exactly_at_the_edge(num_equal: int, top_p: float) -> None:
    """Of equal tokens whose sum is exactly ``top_p`` as many stay as in transformers: the first ones."""
    logits = np.full(VOCAB, -np.inf)
    logits[5 : 5 + num_equal] = 2.0
    assert_same(logits, {"top_p": top_p})
    ours = sampler(top_p=top_p).probabilities(logits, SEEN)
    assert np.flatnonzero(ours).tolist() == list(range(5, 5 + int(num_equal * top_p)))


def test_random_options_on_random_logits() -> None:
    for seed in range(100):
        random = np.random.default_rng(seed)
        logits = np.round(random.normal(0, 3, 200), int(random.integers(0, 17)))
        options = {
            "temperature": float(random.uniform(0.2, 2)),
            "top_k": int(random.integers(1, 200)),
            "top_p": float(random.uniform(0.1, 1)),
            "min_p": float(random.uniform(0, 0.3)),
            "repetition_penalty": float(random.uniform(0.7, 1.5)),
        }
        assert_same(logits, {name: value for name, value in options.items() if random.random() < 0.7})


def test_extreme_temperatures_are_the_limits() -> None:
    logits = LOGITS["random"]
    sharpest = sampler(temperature=5e-324).probabilities(logits, SEEN)
    assert sharpest[logits.argmax()] == 1.0
    flattest = sampler(temperature=1e300).probabilities(LOGITS["masked"], SEEN)
    np.testing.assert_allclose(flattest, np.where(np.isinf(LOGITS["masked"]), 0, 1 / 20))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0, "do_sample": True}, {}], ids=str)
def test_temperature_zero_is_greedy(options: dict[str, Any]) -> None:
    chosen = Chooser(GenerationOptions.parse({"top_k": 40, **options} if options else {}))
    assert chosen.pipeline.is_plain_greedy
    for logits in LOGITS.values():
        assert chosen.choose(logits, SEEN) == int(logits.argmax())


def test_greedy_with_a_repetition_penalty() -> None:
    logits = np.zeros(VOCAB)
    logits[17], logits[20] = 2.0, 1.9
    penalised = Chooser(GenerationOptions(repetition_penalty=1.2))
    assert not penalised.pipeline.is_plain_greedy
    assert penalised.choose(logits, [5]) == 17
    assert penalised.choose(logits, [5, 17]) == 20


def test_given_logits_are_not_changed() -> None:
    for options in STEPS:
        logits = LOGITS["random"].astype(np.float32)
        sampler(**options).choose(logits, SEEN)
        assert np.array_equal(logits, LOGITS["random"].astype(np.float32)), options


def test_equal_seeds_repeat_and_others_do_not() -> None:
    def draw(seed: int | None) -> list[int]:
        chosen = sampler(seed=seed)
        return [chosen.choose(LOGITS["flat"], SEEN) for _ in range(40)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 7}, {"top_p": 0.6}], ids=str)
def test_frequencies_are_the_probabilities(options: dict[str, Any]) -> None:
    logits = np.random.default_rng(5).normal(0, 1.5, 20)
    chosen, num_draws = sampler(**options), 10_000
    expected = chosen.probabilities(logits, [])
    found = np.bincount([chosen.choose(logits, []) for _ in range(num_draws)], minlength=20) / num_draws
    five_sigma = 5 * np.sqrt(expected * (1 - expected) / num_draws)
    assert (abs(found - expected) <= five_sigma).all()
    assert (expected > 0).sum() >= 3, "or the test would say little"


def test_entries_that_the_engine_does_not_follow_are_named() -> None:
    config = {"no_repeat_ngram_size": 3, "guidance_scale": 1.0, "num_beams": 4, "suppress_tokens": [7], "top_k": 50}
    assert entries_without_effect(config) == ["num_beams=4"]
    assert entries_without_effect({"watermarking_config": {"bias": 2.0}}) == ["watermarking_config={'bias': 2.0}"]


BANNED = [[5], [17, 3], [0, 17, 8], [40, 17, 9], [2], [1] * 20]
"""One token; the ends of two sequences, of which one has begun; an end token; one that is longer than any text."""


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.7, "top_k": 9}], ids=str)
def test_banned_sequences_are_those_of_transformers(options: dict[str, Any]) -> None:
    builder = RequestBuilder({"bad_words_ids": BANNED, "eos_token_id": [2]}, ctx_len=64)
    banned = builder.build(SEEN, 1, {}).sampling.bad_words_ids
    processor = NoBadWordsLogitsProcessor([list(ids) for ids in BANNED], eos_token_id=[2])
    steps = {"repetition_penalty": RepetitionPenaltyLogitsProcessor, "temperature": TemperatureLogitsWarper}
    for tokens in (SEEN, [1], [0, 17], [59, 17]):
        scores, ids = torch.tensor(LOGITS["random"])[None], torch.tensor([tokens])
        if "repetition_penalty" in options:
            scores = steps["repetition_penalty"](options["repetition_penalty"])(ids, scores)
        scores = processor(ids, scores)
        if "temperature" in options:
            scores = TopKLogitsWarper(9)(ids, steps["temperature"](0.7)(ids, scores))
        ours = Chooser(GenerationOptions.parse({**options, "bad_words_ids": banned}), frozenset([2]))
        assert not ours.pipeline.is_plain_greedy
        expected = torch.softmax(scores, -1)[0].numpy()
        np.testing.assert_allclose(ours.probabilities(LOGITS["random"], tokens), expected, rtol=1e-9)


def test_a_banned_token_is_no_answer() -> None:
    logits = np.zeros(VOCAB)
    logits[[17, 20, 30]] = 3.0, 2.0, 1.0
    chosen = Chooser(GenerationOptions(bad_words_ids=((17,), (4, 20))))
    assert [chosen.choose(logits, tokens) for tokens in ([5], [4], [4, 4], [4, 5])] == [20, 30, 30, 20]


ALL = [[token] for token in range(VOCAB)]


@pytest.mark.parametrize("value", [[[60]], [[3], [59, 61]], [[-1]], ALL, [[]], [3], "x", [["a"]]])
def test_banned_tokens_that_no_model_has(value: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"here: bad_words_ids"):
        check_generation_config({"bad_words_ids": value}, "here", CorruptCheckpoint, VOCAB)
