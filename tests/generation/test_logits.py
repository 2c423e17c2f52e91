"""Each processor of the pipeline gives what transformers' gives on the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from QEfficient.generation.logits.history import History
from QEfficient.generation.logits.logprobs import token_logprob
from QEfficient.generation.logits.pipeline import NO_TOKEN, AnswerShape, Sampler, choose_tokens, pipeline_of
from QEfficient.generation_options import GenerationOptions

VOCAB, EOS = 40, (3, 7)
SOURCE = (5, 9, 9, 12, 5, 9)
"""What the encoder reads."""
PROMPT = [4, 9, 12, 4]
ANSWERS = ([], [9], [9, 12], [4, 9, 12, 4, 9], [20, 4, 9, 12, 33, 4, 9, 12], [5, 9, 9, 12, 5, 9, 9])
ROWS = [[*PROMPT, *answer] for answer in ANSWERS]

BIASES = {(9,): 1.5, (12,): -2.25, (4, 9): 3.1, (12, 9): 0.7, (9, 12, 4): -1.3, (4, 9, 12, 5): 5.0}
BAD = [[9], [12, 4], [4, 9, 12], [7], [20, 4, 9]]
DECAY = (2, 1.3)


def length_dependent(kind: Any, *arguments: Any) -> Any:
    return kind(*arguments, torch.tensor(EOS))


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("repetition", {"repetition_penalty": 1.3}, hf.RepetitionPenaltyLogitsProcessor(1.3)),
    ("repetition below 1", {"repetition_penalty": 0.7}, hf.RepetitionPenaltyLogitsProcessor(0.7)),
    (
        "encoder repetition",
        {"encoder_repetition_penalty": 1.4},
        hf.EncoderRepetitionPenaltyLogitsProcessor(1.4, torch.tensor([SOURCE])),
    ),
    ("n-grams of 1", {"no_repeat_ngram_size": 1}, hf.NoRepeatNGramLogitsProcessor(1)),
    ("n-grams of 2", {"no_repeat_ngram_size": 2}, hf.NoRepeatNGramLogitsProcessor(2)),
    ("n-grams of 3", {"no_repeat_ngram_size": 3}, hf.NoRepeatNGramLogitsProcessor(3)),
    ("n-grams of 30", {"no_repeat_ngram_size": 30}, hf.NoRepeatNGramLogitsProcessor(30)),
    (
        "n-grams of the source",
        {"encoder_no_repeat_ngram_size": 3},
        hf.EncoderNoRepeatNGramLogitsProcessor(3, torch.tensor([SOURCE])),
    ),
    ("sequence bias", {"sequence_bias": BIASES}, hf.SequenceBiasLogitsProcessor(BIASES)),
    (
        "sequence bias as a list",
        {"sequence_bias": [[list(ids), bias] for ids, bias in BIASES.items()]},
        hf.SequenceBiasLogitsProcessor(BIASES),
    ),
    ("bad words", {"bad_words_ids": BAD}, hf.NoBadWordsLogitsProcessor(BAD, list(EOS))),
    ("min length", {"min_length": 6}, length_dependent(hf.MinLengthLogitsProcessor, 6)),
    ("min new tokens", {"min_new_tokens": 3}, length_dependent(hf.MinNewTokensLengthLogitsProcessor, len(PROMPT), 3)),
    (
        "forced end",
        {"forced_eos_token_id": [11, 30]},
        hf.ForcedEOSTokenLogitsProcessor(len(PROMPT) + 3, [11, 30]),
    ),
    (
        "decay",
        {"exponential_decay_length_penalty": DECAY},
        hf.ExponentialDecayLengthPenalty(DECAY, [*EOS], len(PROMPT)),
    ),
    ("suppressed", {"suppress_tokens": [0, 9, 39]}, hf.SuppressTokensLogitsProcessor([0, 9, 39])),
    (
        "suppressed at first",
        {"begin_suppress_tokens": [0, 9, 39]},
        hf.SuppressTokensAtBeginLogitsProcessor([0, 9, 39], len(PROMPT)),
    ),
]
TRUNCATIONS: list[tuple[str, dict[str, Any], Any]] = [
    ("temperature", {"temperature": 0.6}, hf.TemperatureLogitsWarper(0.6)),
    ("top k", {"top_k": 7}, hf.TopKLogitsWarper(7)),
    ("top p", {"top_p": 0.8}, hf.TopPLogitsWarper(0.8)),
    ("min p", {"min_p": 0.1}, hf.MinPLogitsWarper(0.1)),
    *((f"typical {mass}", {"typical_p": mass}, hf.TypicalLogitsWarper(mass)) for mass in (0.01, 0.4, 0.9, 0.999)),
    *((f"epsilon {cut}", {"epsilon_cutoff": cut}, hf.EpsilonLogitsWarper(cut)) for cut in (1e-4, 0.03, 0.5, 0.99)),
    *((f"eta {cut}", {"eta_cutoff": cut}, hf.EtaLogitsWarper(cut)) for cut in (1e-4, 0.03, 0.5, 0.99)),
]


def pipeline(options: dict[str, Any]) -> Any:
    shape = AnswerShape(prompt_len=len(PROMPT), max_new_tokens=3, eos_token_ids=frozenset(EOS))
    return pipeline_of(GenerationOptions.parse(options), shape)


def histories(rows: Sequence[list[int]] = ROWS) -> list[History]:
    return [History(list(row), len(PROMPT), SOURCE) for row in rows]


def random_logits(seed: int, num_rows: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.choice([0.01, 2.0, 8.0]), (num_rows, VOCAB))
    logits = np.round(logits, random.integers(0, 8))  # with ties
    logits[random.random(logits.shape) < 0.1] = -np.inf
    logits[:, 1] = 0.5  # a token is left
    return logits.astype(np.float32)


def theirs(processor: Any, rows: Sequence[list[int]], logits: np.ndarray) -> np.ndarray:
    scores = [processor(torch.tensor([row]), torch.tensor(each[None])) for row, each in zip(rows, logits, strict=True)]
    return torch.cat(scores).numpy()


@pytest.mark.parametrize(("options", "processor"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_scores_are_bit_for_bit_transformers(options: dict[str, Any], processor: Any) -> None:
    """In rows of different lengths at once, and in float32."""
    has_effect = False
    for seed in range(20):
        logits = random_logits(seed, len(ROWS))
        ours = pipeline(options).scores(logits, histories())
        np.testing.assert_array_equal(ours, theirs(processor, ROWS, logits))
        has_effect |= not np.array_equal(ours, logits)
    assert has_effect or options == {"no_repeat_ngram_size": 30}


@pytest.mark.parametrize(
    ("options", "processor"), [case[1:] for case in TRUNCATIONS], ids=[case[0] for case in TRUNCATIONS]
)
def test_probabilities_after_truncation_are_transformers(options: dict[str, Any], processor: Any) -> None:
    num_dropped = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        logits = random.normal(0, random.choice([0.5, 2.0, 6.0]), (len(ROWS), VOCAB))
        logits[random.random(logits.shape) < 0.1] = -np.inf
        expected = torch.softmax(torch.tensor(theirs(processor, ROWS, logits)), -1).numpy()
        ours = pipeline({**options, "do_sample": True}).probabilities(logits, histories())
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-300)
        num_dropped += int(((ours == 0) & np.isfinite(logits)).sum())
    assert (num_dropped > 0) == ("temperature" not in options)


def test_the_first_token_of_a_decoder_is_forced_and_those_after_it_are_not() -> None:
    """A prompt of one token; a suppressed first token is then the second, as in transformers."""
    options = GenerationOptions.parse({"forced_bos_token_id": 8, "begin_suppress_tokens": [1]})
    chosen = pipeline_of(options, AnswerShape(prompt_len=1, max_new_tokens=9))
    logits = np.zeros((3, VOCAB), np.float32)
    logits[:, 1] = 1.0
    rows = [History(tokens, 1) for tokens in ([2], [2, 8], [2, 8, 5])]
    scores = chosen.scores(logits, rows)
    expected = theirs(hf.ForcedBOSTokenLogitsProcessor(8), [row.tokens for row in rows], logits)
    expected[1] = hf.SuppressTokensAtBeginLogitsProcessor([1], 2)(
        torch.tensor([rows[1].tokens]), torch.tensor(expected[1:2])
    )
    np.testing.assert_array_equal(scores, expected)
    longer = pipeline_of(options, AnswerShape(prompt_len=2, max_new_tokens=9))
    assert longer.scores(logits[:1], [History([2, 5], 2)]).argmax() == 0


def test_penalties_of_an_answers_tokens_are_openais() -> None:
    """Of the answer alone: ``logit - count * frequency - (count > 0) * presence``; and a bias for any token."""
    options = {"frequency_penalty": 0.5, "presence_penalty": 0.25, "logit_bias": {"9": 4.0, 30: -100}}
    scores = pipeline(options).scores(np.zeros((len(ROWS), VOCAB), np.float32), histories())
    for answer, row in zip(ANSWERS, scores, strict=True):
        counts = np.bincount(answer, minlength=VOCAB)
        expected = -0.5 * counts - 0.25 * (counts > 0)
        expected[9] += 4.0
        expected[30] -= 100
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_processors_are_in_transformers_order() -> None:
    options = {
        "sequence_bias": BIASES,
        "encoder_repetition_penalty": 1.1,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": BAD,
        "min_new_tokens": 2,
        "exponential_decay_length_penalty": DECAY,
        "suppress_tokens": [22],
    }
    chain = [
        hf.SequenceBiasLogitsProcessor(BIASES),
        hf.EncoderRepetitionPenaltyLogitsProcessor(1.1, torch.tensor([SOURCE])),
        hf.RepetitionPenaltyLogitsProcessor(1.2),
        hf.NoRepeatNGramLogitsProcessor(3),
        hf.NoBadWordsLogitsProcessor(BAD, list(EOS)),
        hf.MinNewTokensLengthLogitsProcessor(len(PROMPT), 2, [*EOS]),
        hf.ExponentialDecayLengthPenalty(DECAY, [*EOS], len(PROMPT)),
        hf.SuppressTokensLogitsProcessor([22]),
    ]
    for seed in range(20):
        logits = random_logits(seed, len(ROWS))
        expected = logits
        for processor in chain:
            expected = theirs(processor, ROWS, expected)
        np.testing.assert_array_equal(pipeline(options).scores(logits, histories()), expected)


def test_what_is_kept_of_a_history_is_what_a_new_one_says() -> None:
    """Token by token, as an answer grows, beside a history that is made anew for each."""
    options = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "frequency_penalty": 0.3, "presence_penalty": 0.1}
    random, chosen = np.random.default_rng(0), pipeline(options)
    tokens = list(PROMPT)
    kept = History(tokens, len(PROMPT), SOURCE)
    for _ in range(150):  # of more different tokens than a first buffer has
        logits = random.normal(0, 2, (1, VOCAB)).astype(np.float32)
        anew = History(list(tokens), len(PROMPT), SOURCE)
        np.testing.assert_array_equal(chosen.scores(logits, [kept]), chosen.scores(logits, [anew]))
        tokens.append(int(random.integers(0, VOCAB)))


def test_tokens_beyond_the_vocabulary_are_passed_over() -> None:
    """A prompt has some in the places of images; transformers clamps them away too."""
    tokens = [5, VOCAB, VOCAB + 7, 5, VOCAB]
    options = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1, "suppress_tokens": [VOCAB + 3]}
    scores = pipeline(options).scores(np.ones((1, VOCAB), np.float32), [History(tokens, 5, (VOCAB + 1,))])
    assert np.flatnonzero(scores[0] != 1).tolist() == [5]


def test_default_options_cost_nothing() -> None:
    assert pipeline({}).is_plain_greedy
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_length": 0}
    assert pipeline({**neutral, "presence_penalty": 0.0, "bad_words_ids": [], "typical_p": 1.0}).processors == ()


def test_rows_of_equal_options_are_chosen_at_once_and_others_apart() -> None:
    same = {"repetition_penalty": 1.3, "bad_words_ids": BAD}
    assert pipeline(same) == pipeline(same)
    assert hash(pipeline(same)) == hash(pipeline(same))
    logits = np.random.default_rng(3).normal(0, 2, (len(ROWS), VOCAB)).astype(np.float32)
    every = [same, {}, same, {"suppress_tokens": [1]}, {"top_k": 1}, same]
    samplers = [Sampler(pipeline(options), history, 0) for options, history in zip(every, histories(), strict=True)]
    together = choose_tokens(logits, samplers)
    alone = [choose_tokens(logits[index : index + 1], [one])[0] for index, one in enumerate(samplers)]
    assert together == alone


@pytest.mark.parametrize("more", [{}, {"do_sample": True, "seed": 0}], ids=["greedy", "drawn"])
def test_no_token_is_left(more: dict[str, Any]) -> None:
    chosen = pipeline({"suppress_tokens": list(range(VOCAB)), **more})
    assert choose_tokens(np.zeros((1, VOCAB), np.float32), [Sampler(chosen, histories()[0], 0)]) == [NO_TOKEN]


def test_rows_with_and_without_a_token_are_drawn_at_once() -> None:
    """Where few tokens are left, only those stay in the arrays; what is drawn is one of them."""
    logits = np.random.default_rng(0).normal(0, 2, (4, VOCAB)).astype(np.float32)
    logits[:, 20:] = -np.inf
    logits[2] = -np.inf
    samplers = [Sampler(pipeline({"top_k": 2, "top_p": 0.9}), history, 0) for history in histories()[:4]]
    for _ in range(20):
        chosen = choose_tokens(logits, samplers)
        assert chosen[2] == NO_TOKEN
        assert all(token in logits[row].argsort()[-2:] for row, token in enumerate(chosen) if row != 2)
    rows = [0, 1, 3]
    expected = logits[rows]
    for warper in (hf.TopKLogitsWarper(2), hf.TopPLogitsWarper(0.9)):
        expected = theirs(warper, [ROWS[row] for row in rows], expected)
    ours = samplers[0].pipeline.probabilities(logits[rows], [samplers[row].history for row in rows])
    np.testing.assert_allclose(ours, torch.softmax(torch.tensor(expected).double(), -1), rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4, VOCAB, VOCAB + 9])
def test_logprobs_are_those_of_a_log_softmax(count: int) -> None:
    logits = np.random.default_rng(1).normal(0, 3, VOCAB).astype(np.float32)
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    one = token_logprob(logits, 17, count)
    assert (one.token_id, one.logprob) == (17, pytest.approx(float(expected[17])))
    values, ids = torch.topk(expected, min(count, VOCAB))
    assert [token for token, _ in one.top] == ids.tolist()
    assert [value for _, value in one.top] == pytest.approx(values.tolist())
