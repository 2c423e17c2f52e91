"""Many threads over one engine: each answer is the one that the request gets alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread, get_ident
from typing import Any

import numpy as np
import pytest
import tiny_models
from architectures.tiny import tiny_model
from fake_session import CTX_LEN, VOCAB, FakeSession, alone, answers, request

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM
from QEfficient.errors import DeviceError
from QEfficient.generation.engine import Engine
from QEfficient.generation.request import NewToken, Request
from QEfficient.generation.sessions.session import Chunk


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Threads take turns every 10 microseconds instead of every 5 milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Results of ``work(0)`` and so on, begun at the same moment."""
    barrier = Barrier(count)

    def begin(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def short_request(r: random.Random) -> Request:
    return request([r.randrange(VOCAB) for _ in range(r.choice([1, 2, 3, 12]))], r.choice([1, 2, 3, 5]))


def ids(tokens: Sequence[NewToken]) -> list[int]:
    return [token.token_id for token in tokens]


@pytest.mark.parametrize("is_ragged", [True, False])
def test_no_answer_of_ten_thousand_is_wrong(is_ragged: bool, busy_switching: None) -> None:
    session = FakeSession(num_slots=5, chunk_len=8, is_ragged=is_ragged, num_blocks=12 if is_ragged else None)
    engine = Engine(session)

    def count_wrong(seed: int) -> int:
        r, num_wrong = random.Random(seed), 0
        for _ in range(1250):
            asked = short_request(r)
            num_wrong += ids(list(engine.run([asked]))) != alone(asked)
        return num_wrong

    assert in_threads(8, count_wrong) == [0] * 8
    assert max(len(step) for step in session.steps) > 2, "they share steps"
    engine.close()
    if engine._scheduler.blocks is not None:
        assert engine._scheduler.blocks.num_free == 12


def test_batches_streams_and_dropped_iterators_side_by_side(busy_switching: None) -> None:
    engine = Engine(FakeSession(num_slots=4, num_blocks=20))

    def work(seed: int) -> None:
        r = random.Random(seed)
        for _ in range(60):
            asked = [short_request(r) for _ in range(r.choice([1, 2, 7]))]
            tokens = engine.run(asked)
            if seed % 3 == 0:
                next(tokens)
                del tokens
            elif seed % 3 == 1:
                assert answers(tokens, len(asked)) == [alone(one) for one in asked]
            else:
                first = [next(tokens)]
                other = ids(list(engine.run(asked[:1])))
                assert other == alone(asked[0])
                assert answers([*first, *tokens], len(asked)) == [alone(one) for one in asked]

    in_threads(9, work)
    engine.close()
    assert engine._scheduler.blocks is not None
    assert engine._scheduler.blocks.num_free == 20


def test_failing_steps_reach_those_who_were_in_them(busy_switching: None) -> None:
    """Every answer is right, or an error; none is cut short, and nobody waits for ever."""

    class Failing(FakeSession):
        def before(self, chunks: Sequence[Chunk]) -> None:
            if random.random() < 0.02:
                raise DeviceError("now and then")

    engine = Engine(Failing(num_slots=4, num_blocks=20))

    def work(seed: int) -> tuple[int, int]:
        r, num_right, num_failed = random.Random(seed), 0, 0
        for _ in range(150):
            asked = short_request(r)
            try:
                assert ids(list(engine.run([asked]))) == alone(asked)
                num_right += 1
            except DeviceError:
                num_failed += 1
        return num_right, num_failed

    results = in_threads(6, work)
    assert sum(right for right, _ in results) > 400
    assert sum(failed for _, failed in results) > 10
    engine.close()
    assert engine._scheduler.blocks is not None
    assert engine._scheduler.blocks.num_free == 20


def test_who_sleeps_steps_when_the_one_that_did_is_gone() -> None:
    """The other thread's consumer takes one token and then no more, for as long as this one runs."""
    in_step, is_done = Event(), Event()

    class Slow(FakeSession):
        def before(self, chunks: Sequence[Chunk]) -> None:
            threads.add(get_ident())
            in_step.set()
            if len(self.steps) == 0:
                is_asleep.wait(10)

    threads: set[int] = set()
    is_asleep = Event()
    engine = Engine(Slow(num_slots=2))

    def take_one() -> None:
        tokens = engine.run([request([1], most=CTX_LEN)])
        next(tokens)
        is_done.wait(10)

    other = Thread(target=take_one)
    other.start()
    assert in_step.wait(10)
    Thread(target=lambda: (_until(lambda: bool(engine._turns._sleeping)), is_asleep.set())).start()
    assert ids(list(engine.run([request([2, 3])]))) == alone(request([2, 3]))
    assert threads == {other.ident, get_ident()}
    is_done.set()
    other.join()
    engine.close()


def _until(is_so: Callable[[], bool]) -> None:
    pause = Event()
    while not is_so():
        pause.wait(0.001)


def test_one_caller_steps_in_its_thread() -> None:
    threads = set()

    class Noting(FakeSession):
        def before(self, chunks: Sequence[Chunk]) -> None:
            threads.add(get_ident())

    list(Engine(Noting()).run([request([1]), request([2])]))
    assert threads == {get_ident()}


@pytest.mark.parametrize("lowering", ["paged", "retained"])
def test_answers_of_a_package_in_threads(lowering: str, busy_switching: None) -> None:
    with QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama")) as model:
        model.compile(ctx_len=32, prefill_seq_len=4, full_batch_size=3, precision="fp32", lowering=lowering)
        prompts = [[5, 6, 7 + seed, *range(10, 10 + seed % 5)] for seed in range(40)]
        expected = [model.generate([prompt], generation_len=4).generated_ids[0].tolist() for prompt in prompts]

        def count_wrong(seed: int) -> int:
            r, num_wrong = random.Random(seed), 0
            for _ in range(50):
                index = r.randrange(40)
                info = model.generate([prompts[index]], generation_len=4)
                num_wrong += info.generated_ids[0].tolist() != expected[index]
            return num_wrong

        assert in_threads(6, count_wrong) == [0] * 6


def test_results_of_an_encoder_in_threads(busy_switching: None) -> None:
    with QEFFAutoModel(tiny_model("text_encoder", "roberta")) as model:
        model.compile(seq_len=(8, 16), batch_size=2, precision="fp32")
        texts = [[[5 + seed, *range(10, 10 + length)] for length in (seed % 7, seed % 11)] for seed in range(20)]
        expected = [model.generate(pair)["output"] for pair in texts]

        def count_wrong(seed: int) -> int:
            r = random.Random(seed)
            indices = [r.randrange(20) for _ in range(100)]
            return sum(not np.array_equal(model.generate(texts[i])["output"], expected[i]) for i in indices)

        assert in_threads(6, count_wrong) == [0] * 6


def test_answers_of_a_sequence_to_sequence_model_in_threads(busy_switching: None) -> None:
    with QEFFAutoModelForSeq2SeqLM(tiny_model("seq2seq", "bart")) as model:
        model.compile(ctx_len=16, encoder_ctx_len=16, full_batch_size=3, precision="fp32")
        prompts = [[5 + seed, *range(10, 10 + seed % 7)] for seed in range(20)]
        expected = [model.generate([prompt], generation_len=4).generated_ids[0].tolist() for prompt in prompts]

        def count_wrong(seed: int) -> int:
            r = random.Random(seed)
            indices = [r.randrange(20) for _ in range(25)]
            answers = [model.generate([prompts[i]], generation_len=4).generated_ids[0].tolist() for i in indices]
            return sum(answer != expected[i] for answer, i in zip(answers, indices, strict=True))

        assert in_threads(6, count_wrong) == [0] * 6
