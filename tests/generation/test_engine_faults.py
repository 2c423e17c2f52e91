"""What ends requests before their time: cancelled, dropped, a step that fails, an interrupt anywhere."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from fake_session import CTX_LEN, FakeSession, alone, answers, request

import QEfficient.generation
from QEfficient.errors import CapacityError, DeviceError, LifecycleError, NumericError
from QEfficient.generation.engine import Engine
from QEfficient.generation.request import NewToken, Outbox
from QEfficient.generation.sessions.session import Chunk
from QEfficient.generation_options import GenerationOptions

ROOM = {"num_slots": 3, "num_blocks": 24}
"""Three slots, and blocks for three requests that fill the context."""


def num_free_blocks(engine: Engine) -> int:
    assert engine._scheduler.blocks is not None
    return engine._scheduler.blocks.num_free


def ids(tokens: list[NewToken]) -> list[int]:
    return [token.token_id for token in tokens]


def check_it_works(engine: Engine, most: int = CTX_LEN) -> None:
    """Everything is free, and more requests than slots are answered."""
    asked = [request([5, seed], most) for seed in range(4)]
    assert answers(engine.run(asked), 4) == [alone(one) for one in asked]
    if engine._scheduler.blocks is not None:
        assert num_free_blocks(engine) == engine._scheduler.blocks.num_blocks
    engine.close()


def test_add_step_and_cancel() -> None:
    engine = Engine(FakeSession(**ROOM))
    outbox: Outbox = Outbox()
    asked = [request([1, 2]), request([3]), request([4], most=3)]
    requests = [engine.add(one, outbox) for one in asked]
    tokens: dict[int, list[int]] = {request_id: [] for request_id in requests}
    for _ in range(5):
        for request_id, token in engine.step().items():
            assert isinstance(token, NewToken)
            assert token.index == request_id
            assert outbox.get_nowait() == token
            tokens[request_id].append(token.token_id)
    assert num_free_blocks(engine) == 8, "of the one that is done"
    engine.cancel(requests[0])
    assert [*engine.step()] == [requests[1]]
    assert num_free_blocks(engine) == 16
    engine.cancel(requests[0])
    engine.cancel(requests[1])
    engine.cancel(requests[2])
    engine.cancel(12345)
    assert engine.step() == {}
    assert [tokens[request_id] for request_id in requests] == [alone(one)[:5] for one in asked]
    check_it_works(engine)


def test_what_does_not_fit_the_blocks_is_refused() -> None:
    """It would wait for ever."""
    engine = Engine(FakeSession(num_blocks=4))
    assert len(list(engine.run([request([1] * 20, most=12)]))) == 12
    with pytest.raises(CapacityError, match=r"come to 33 tokens, and the session's 4 KV blocks hold 32.*at most 12"):
        engine.run([request([1] * 20, most=13)])


def test_requests_share_fewer_blocks_than_slots_could_fill() -> None:
    session = FakeSession(num_slots=8, num_blocks=10)
    asked = [request([seed] * (1 + seed % 30), most=1 + seed * 7 % 30) for seed in range(40)]
    engine = Engine(session)
    assert answers(engine.run(asked), 40) == [alone(one) for one in asked]
    assert num_free_blocks(engine) == 10
    assert max(len(step) for step in session.steps) > 2


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_dropped_iterator_leaves_its_slots_and_blocks(is_closed: bool) -> None:
    engine = Engine(FakeSession(**ROOM))
    other = engine.run([request([9])])
    begin = [next(other) for _ in range(3)]
    dropped = engine.run([request([1]), request([2]), request([3])])
    next(dropped)
    if is_closed:
        dropped.close()
    del dropped
    engine.step()
    assert num_free_blocks(engine) == 16
    assert ids(begin) == alone(request([9]))[:3]
    del other
    check_it_works(engine)


def test_a_dropped_iterator_in_a_cycle_is_collected_anywhere() -> None:
    """The collector may run it inside of the engine's lock."""
    engine = Engine(FakeSession(**ROOM))
    cycle: list[Any] = [engine.run([request([1])])]
    cycle.append(cycle)
    next(cycle[0])
    with engine._lock, engine._turns._lock:
        del cycle
        gc.collect()
    check_it_works(engine)


def test_an_iterator_that_was_never_started_is_no_request() -> None:
    engine = Engine(FakeSession(**ROOM))
    tokens = engine.run([request([1])])
    engine.close()
    with pytest.raises(LifecycleError, match="closed"):
        next(tokens)


def test_an_exception_of_the_consumer_ends_its_requests() -> None:
    engine = Engine(FakeSession(**ROOM))

    def consume() -> None:
        for token in engine.run([request([1]), request([2])]):
            assert token.token_id < 0, "not what the consumer likes"

    with pytest.raises(AssertionError, match="likes"):
        consume()
    check_it_works(engine)


def test_a_run_inside_of_a_run() -> None:
    """As of a consumer that calls ``generate``. There is one slot, so the outer run's answer is done first."""
    engine = Engine(FakeSession(num_slots=1))
    outer = engine.run([request([1, 2], most=9)])
    tokens = [next(outer)]
    assert ids(list(engine.run([request([3], most=4)]))) == alone(request([3], most=4))
    assert ids(tokens + list(outer)) == alone(request([1, 2], most=9))


class Failing(FakeSession):
    """Fails in the steps that ``fails`` names."""

    fails: Callable[[Sequence[Chunk]], BaseException | None] = staticmethod(lambda chunks: None)

    def before(self, chunks: Sequence[Chunk]) -> None:
        if (error := self.fails(chunks)) is not None:
            raise error


@pytest.mark.parametrize("is_ragged", [True, False])
def test_a_failed_step_ends_the_requests_that_were_in_it_and_no_other(is_ragged: bool) -> None:
    session = Failing(num_slots=2, is_ragged=is_ragged, num_blocks=16)
    engine = Engine(session)
    runs = [engine.run([request([seed])]) for seed in range(2)]
    begin = [next(run) for run in runs]
    waiting = engine.run([request([7, 7])])
    error = DeviceError("the card is on fire")
    errors = [error]
    session.fails = lambda chunks: errors.pop() if len(session.steps) == 4 and errors else None
    tokens = list(waiting)
    assert ids(tokens) == alone(request([7, 7])), "it had no slot while the step failed"
    for run, first, prompt in zip(runs, begin, range(2), strict=True):
        tokens = [first]
        with pytest.raises(DeviceError, match="on fire"):
            tokens.extend(run)
        assert len(tokens) > 2
        assert ids(tokens) == alone(request([prompt]))[: len(tokens)]
        assert list(run) == []
    check_it_works(engine)


def test_a_failed_step_is_an_outcome_for_who_steps() -> None:
    session = Failing(**ROOM)
    engine = Engine(session)
    outbox: Outbox = Outbox()
    request_id = engine.add(request([1]), outbox)
    session.fails = lambda chunks: DeviceError("once")
    (outcome,) = engine.step().values()
    assert isinstance(outcome, DeviceError)
    assert outbox.get_nowait() is outcome
    assert engine.step() == {}
    engine.cancel(request_id)
    session.fails = lambda chunks: None
    check_it_works(engine)


def test_an_interrupt_in_a_step_is_raised_where_it_came() -> None:
    def interrupted(chunks: Sequence[Chunk]) -> None:
        raise KeyboardInterrupt

    session = Failing(**ROOM)
    engine = Engine(session)
    other = engine.run([request([1])])
    next(other)
    mine = engine.run([request([2])])
    next(mine)
    session.fails = interrupted
    with pytest.raises(KeyboardInterrupt):
        next(mine)
    session.fails = lambda chunks: None
    with pytest.raises(LifecycleError, match=r"interrupted.*again"):
        list(other)
    check_it_works(engine)


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.7, "top_k": 3, "seed": 1}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_end_their_request_only(value: float, sampling: dict[str, Any]) -> None:
    class Overflowing(FakeSession):
        def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
            logits = super().step(chunks)
            row = 0
            for chunk in chunks:
                if chunk.num_logits:
                    if 13 in chunk.tokens and chunk.start + len(chunk.tokens) == 3:
                        logits[row, 5] = value
                    row += 1
            return logits

    engine = Engine(Overflowing(**ROOM))
    other = engine.run([request([9])])
    begin = [next(other)]
    failing = request([1, 2, 13])
    failing = replace(failing, sampling=GenerationOptions(**sampling))
    with pytest.raises(NumericError, match=rf"Prompt 0 has no token 1 of its answer.*is {value}.*precision='fp32'"):
        list(engine.run([failing]))
    assert ids([*begin, *other]) == alone(request([9]))
    check_it_works(engine)


SOURCES = {str(path) for path in Path(QEfficient.generation.__file__).parent.glob("*.py")}


class Interrupt:
    """Ctrl-C before the ``at``-th line of the engine that runs; ``line`` is that line once it has come.

    Not where a ``with`` is left: no signal is handled between its last statement and the end of its lock.
    """

    def __init__(self, at: int):
        self.line = ""
        self._left = at
        self._withs: set[tuple[FrameType, int]] = set()

    def __enter__(self) -> Interrupt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)
        self._withs.clear()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in SOURCES:
            return None
        if event == "line" and not self._leaves_with(frame):
            self._left -= 1
            if not self._left:
                self.line = f"{frame.f_code.co_name}: {getline(frame.f_code.co_filename, frame.f_lineno).strip()}"
                raise KeyboardInterrupt
        return self._trace

    def _leaves_with(self, frame: FrameType) -> bool:
        """The line of a ``with`` comes once when it is entered and once when it is left."""
        place = (frame, frame.f_lineno)
        if not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            return False
        self._withs ^= {place}
        return place not in self._withs


@pytest.mark.parametrize("is_ragged", [True, False])
def test_an_interrupt_at_any_line_leaves_the_engine_working(is_ragged: bool) -> None:
    """One of two runs is interrupted; the other gets its answer, or an error if it was in the same step."""
    expected = alone(request([9], most=4))
    for at in count(1):
        engine = Engine(FakeSession(num_slots=2, chunk_len=2, is_ragged=is_ragged, num_blocks=16))
        other = engine.run([request([9], most=4)])
        tokens = [next(other).token_id]
        with suppress(KeyboardInterrupt), Interrupt(at) as interrupt:
            list(engine.run([request([1, 2, 3], most=2), request([4], most=1)]))
        if not interrupt.line:
            break
        with suppress(LifecycleError):
            tokens.extend(token.token_id for token in other)
            assert len(tokens) == 4, interrupt.line
        assert tokens == expected[: len(tokens)], interrupt.line
        engine.step()
        assert num_free_blocks(engine) == 16, interrupt.line
        check_it_works(engine, most=2)
    assert at > 200, "or nothing was interrupted"


def test_close_while_requests_run_is_refused() -> None:
    session = FakeSession(**ROOM)
    engine = Engine(session)
    tokens = engine.run([request([1, 2])])
    first = next(tokens)
    with pytest.raises(LifecycleError, match=r"1 request\(s\) are running"):
        engine.close()
    assert [first.token_id, *ids(list(tokens))] == alone(request([1, 2]))
    engine.close()
    assert session.is_closed


def test_close_within_a_step_is_refused() -> None:
    """Also of the last request, cancelled meanwhile: the session is still at work."""
    session = Failing(**ROOM)
    engine = Engine(session)
    request_id = engine.add(request([1]))

    def cancel_and_close(chunks: Sequence[Chunk]) -> None:
        engine.cancel(request_id)
        with pytest.raises(LifecycleError, match="running"):
            engine.close()

    session.fails = cancel_and_close
    engine.step()
    session.fails = lambda chunks: None
    check_it_works(engine)


def test_closed_twice_is_closed_once_and_then_refuses() -> None:
    engine = Engine(FakeSession())
    engine.close()
    engine.close()
    uses: list[Callable[[], Any]] = [
        lambda: engine.run([request([1])]),
        lambda: engine.add(request([1])),
        engine.step,
    ]
    for use in uses:
        with pytest.raises(LifecycleError, match=r"closed: open it again with from_package\(\)"):
            use()


def test_an_error_that_concerns_no_request_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the scheduler's own is nobody's, so it must not be swallowed."""
    engine = Engine(FakeSession())
    monkeypatch.setattr(engine._scheduler, "schedule", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(engine.run([request([1])]))
    monkeypatch.undo()
    check_it_works(engine)
