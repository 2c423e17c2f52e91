"""The engine over a session whose next token depends on all tokens of the sequence, so that any mix-up shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from fake_session import CTX_LEN, VOCAB, FakeSession, alone, answers, request

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.engine import Engine
from QEfficient.generation.request import NewToken, Request, RequestTimes
from QEfficient.generation.sessions.session import Chunk
from QEfficient.generation_options import GenerationOptions


def random_request(r: random.Random) -> Request:
    options = r.choice(
        [
            GenerationOptions(),
            GenerationOptions(repetition_penalty=1.5),
            GenerationOptions(temperature=0.9, top_k=20, seed=r.randint(0, 99)),
            GenerationOptions(top_p=0.7, min_p=0.02, repetition_penalty=1.1, seed=r.randint(0, 99)),
        ]
    )
    length = r.choice([1, 2, r.randint(1, CTX_LEN - 1), CTX_LEN - 1])
    eos = r.sample(range(VOCAB), r.choice([0, 1, 2, 5]))
    return request([r.randrange(VOCAB) for _ in range(length)], r.choice([1, 2, 7, CTX_LEN]), eos, options)


@pytest.mark.parametrize("is_ragged", [False, True])
def test_each_prompt_is_answered_as_if_alone(is_ragged: bool) -> None:
    for seed in range(40):
        r = random.Random(seed)
        asked = [random_request(r) for _ in range(r.choice([1, 2, 3, 9, 16]))]
        session = FakeSession(r.choice([1, 2, 3, 9, 20]), r.choice([1, 3, 8, 64]), is_ragged)
        engine = Engine(session)
        assert answers(engine.run(asked), len(asked)) == [alone(one) for one in asked], (seed, session.info)
        assert answers(engine.run(asked[::-1]), len(asked)) == [alone(one) for one in asked[::-1]], "used slots"


def test_answers_are_not_trivial() -> None:
    ones = [alone(request([prompt])) for prompt in range(10)]
    assert all(len(set(answer)) > 20 for answer in ones)
    assert len({tuple(answer) for answer in ones}) == 10


def finish_reasons(tokens: list[NewToken]) -> list[str | None]:
    return [token.finish_reason for token in tokens]


def test_any_end_token_ends_and_is_part_of_the_answer() -> None:
    answer = alone(request([1, 2, 3]))
    third, fifth = answer[2], answer[4]
    for eos in ([third], [fifth, third, VOCAB + 5]):
        tokens = list(Engine(FakeSession()).run([request([1, 2, 3], eos=eos)]))
        assert [token.token_id for token in tokens] == answer[:3]
        assert finish_reasons(tokens) == [None, None, "stop"]


def test_end_token_right_after_the_prompt() -> None:
    """The slot is free again at once, also for the request that waited for it."""
    first = alone(request([7] * 20))[0]
    asked = [request([7] * 20, eos=[first]), request([1, 2], most=3), request([7] * 20, eos=[first])]
    tokens = list(Engine(FakeSession(num_slots=1)).run(asked))
    assert answers(iter(tokens), 3) == [[first], alone(asked[1]), [first]]
    assert [(token.index, token.finish_reason) for token in tokens if token.finish_reason] == [
        (0, "stop"),
        (1, "length"),
        (2, "stop"),
    ]


def test_an_end_token_in_the_prompt_ends_nothing() -> None:
    asked = request([4, 5, 4], most=6, eos=[4])
    assert 4 not in alone(asked), "or the test says nothing"
    assert answers(Engine(FakeSession()).run([asked]), 1) == [alone(request([4, 5, 4], most=6))]


def test_each_request_has_its_own_length() -> None:
    asked = [request([prompt], most=most) for prompt, most in enumerate([1, 5, 2, 9, 1])]
    tokens = list(Engine(FakeSession()).run(asked))
    assert [len(answer) for answer in answers(iter(tokens), 5)] == [1, 5, 2, 9, 1]
    assert sorted(token.index for token in tokens if token.finish_reason == "length") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [1, 40, CTX_LEN - 2, CTX_LEN - 1])
def test_the_context_is_filled_to_its_last_token(length: int) -> None:
    tokens = list(Engine(FakeSession()).run([request([3] * length, most=10_000)]))
    assert len(tokens) == CTX_LEN - length
    assert finish_reasons(tokens) == [None] * (len(tokens) - 1) + ["length"]


def test_tokens_come_in_order_and_the_reason_with_the_last_only() -> None:
    asked = [request([prompt], most=4) for prompt in range(5)]
    tokens = list(Engine(FakeSession(num_slots=3)).run(asked))
    for index in range(5):
        own = [token for token in tokens if token.index == index]
        assert [token.token_id for token in own] == alone(asked[index])
        assert finish_reasons(own) == [None, None, None, "length"]


def refused(asked: list[Request], error: type[Exception], *words: str) -> None:
    """``asked`` is refused when it is handed in, before any token of any prompt is computed."""
    session = FakeSession()
    with pytest.raises(error) as caught:
        Engine(session).run(asked)
    assert not session.steps
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("position", [0, 1])
def test_what_does_not_fit_is_refused_before_anything_runs(position: int) -> None:
    def beside(bad: Request) -> list[Request]:
        return [request([1]), bad, request([2])] if position else [bad]

    name = f"Prompt {position}"
    refused(beside(request([])), CapacityError, name, "empty")
    for length in (CTX_LEN, CTX_LEN + 13):
        refused(beside(request([1] * length, most=5)), CapacityError, name, f"{length} tokens", f"ctx_len={CTX_LEN}")
    for token_id in (-1, VOCAB, 10**6):
        refused(beside(request([1, token_id, 2])), OptionError, name, f"token id {token_id}", str(VOCAB - 1))


def test_advice_for_a_long_prompt_is_a_context_that_fits_it() -> None:
    """Also where the length of the answer was left open, which then is what fits: nothing, or less."""
    refused([request([1] * 100, most=20)], CapacityError, "at least 120")
    refused([request([1] * 100, most=CTX_LEN - 100)], CapacityError, "at least 101")


def test_closing_the_iterator_cancels_the_rest() -> None:
    session = FakeSession(num_slots=1)
    engine = Engine(session)
    tokens = engine.run([request([1, 2, 3]), request([4, 5])])
    first = [next(tokens) for _ in range(3)]
    tokens.close()
    assert len(session.steps) == 3
    assert list(tokens) == []
    assert [token.token_id for token in first] == alone(request([1, 2, 3]))[:3]
    assert answers(engine.run([request([9, 8, 7])]), 1) == [alone(request([9, 8, 7]))]


@pytest.mark.parametrize("num_slots", [1, 2])
def test_a_second_run_beside_the_first_leaves_both_right(num_slots: int) -> None:
    """With one slot the second waits until the first is done, whose tokens wait for its caller."""
    engine = Engine(FakeSession(num_slots))
    first = engine.run([request([1, 2, 3])])
    begin = next(first).token_id
    second = engine.run([request([4, 5, 6])])
    assert next(second).token_id == alone(request([4, 5, 6]))[0]
    assert [begin, *(token.token_id for token in first)] == alone(request([1, 2, 3]))
    assert [token.token_id for token in second] == alone(request([4, 5, 6]))[1:]


def test_a_second_run_may_follow_a_finished_one_that_was_not_exhausted() -> None:
    engine = Engine(FakeSession())
    first = engine.run([request([1, 2], most=1)])
    assert next(first).finish_reason == "length"
    list(engine.run([request([3])]))
    assert list(first) == []


def test_no_request_no_step() -> None:
    session = FakeSession()
    assert list(Engine(session).run([])) == []
    assert not session.steps


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the session moves: 10 s a step with prompt tokens in it, 1 s a step without."""
    now = 0.0

    class Clocked(FakeSession):
        def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
            nonlocal now
            now += 10.0 if any(chunk.start < 12 for chunk in chunks) else 1.0
            return super().step(chunks)

    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr("QEfficient.generation.engine.time", SimpleNamespace(perf_counter=clock))
    session = Clocked(num_slots=2, chunk_len=8, is_ragged=False)

    def times(asked: list[Request]) -> RequestTimes:
        return RequestTimes.sum(token.times for token in Engine(session).run(asked) if token.times is not None)

    assert times([request([1] * 12, most=5), request([2] * 12, most=7)]) == RequestTimes(
        prefill=20.0,  # 12 tokens in chunks of 8
        decode=6.0,
        num_decoded=4 + 6,  # the first token of each comes of its prompt
    )
    assert times([request([1] * 12, most=1)]) == RequestTimes(prefill=20.0, decode=0.0, num_decoded=0)


def test_times_are_those_of_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that share a step share its time."""
    seconds = iter(range(100))
    monkeypatch.setattr("QEfficient.generation.engine.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    tokens = Engine(FakeSession(num_slots=2)).run([request([1], most=3), request([2], most=5)])
    times = {token.index: token.times for token in tokens if token.times is not None}
    assert times[0] == RequestTimes(prefill=0.5, decode=0.5 + 0.5, num_decoded=2)
    assert times[1] == RequestTimes(prefill=0.5, decode=0.5 + 0.5 + 1 + 1, num_decoded=4)
