"""The scheduler over random loads, in whole numbers: what every session may rely on."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import pytest

from QEfficient.generation.scheduler import Scheduler, Sequence
from QEfficient.generation.sessions.session import Chunk, SessionInfo

Step = list[tuple[int, Chunk]]


@dataclass(frozen=True)
class Load:
    """Prompts, and the number of tokens that each is answered with."""

    info: SessionInfo
    prompt_lens: tuple[int, ...]
    answer_lens: tuple[int, ...]

    def tokens(self, index: int) -> list[int]:
        """Prompt and answer of one request; no token belongs to two."""
        return [1000 * index + position for position in range(self.prompt_lens[index] + self.answer_lens[index])]


def info(num_slots: int, chunk_len: int, is_ragged: bool) -> SessionInfo:
    return SessionInfo(num_slots=num_slots, ctx_len=1000, chunk_len=chunk_len, is_ragged=is_ragged, vocab_size=10**6)


@cache
def run(load: Load) -> list[Step]:
    """All steps, each as ``(request, chunk)`` pairs."""
    scheduler = Scheduler(load.info)
    for index, length in enumerate(load.prompt_lens):
        scheduler.add(Sequence(index, load.tokens(index)[:length]))
    steps: list[Step] = []
    while not scheduler.is_done:
        step = scheduler.schedule()
        assert step, "a step with nothing in it would go on for ever"
        assert len(scheduler.running) == load.info.num_slots or not scheduler.waiting, "an idle slot, and one waits"
        steps.append([(sequence.index, chunk) for sequence, chunk in step])
        for sequence, chunk in step:
            scheduler.advance(sequence, chunk)
            if chunk.num_logits:
                sequence.tokens.append(load.tokens(sequence.index)[len(sequence.tokens)])
                if len(sequence.tokens) == len(load.tokens(sequence.index)):
                    scheduler.release(sequence)
    return steps


def random_load(seed: int, is_ragged: bool) -> Load:
    """From one prompt on thirty slots to twenty prompts on one, chunks of one token and of more than any prompt."""
    r = random.Random(seed)
    count = r.choice([1, 2, 3, 8, 20])
    return Load(
        info(r.choice([1, 2, 3, 8, 30]), r.choice([1, 2, 7, 16, 200]), is_ragged),
        tuple(r.choice([1, 2, r.randint(1, 60)]) for _ in range(count)),
        tuple(r.choice([1, 2, r.randint(1, 30)]) for _ in range(count)),
    )


LOADS = [random_load(seed, is_ragged) for seed in range(150) for is_ragged in (False, True)]


def test_each_token_is_taken_once_and_in_order() -> None:
    for load in LOADS:
        taken: dict[int, list[int]] = defaultdict(list)
        for step in run(load):
            for index, chunk in step:
                assert chunk.tokens
                assert chunk.start == len(taken[index]), load
                taken[index] += chunk.tokens
        # Nothing is predicted from the last token of an answer.
        assert taken == {index: load.tokens(index)[:-1] for index in range(len(load.prompt_lens))}, load


def test_logits_are_asked_for_at_the_end_of_what_is_known_and_nowhere_else() -> None:
    for load in LOADS:
        for step in run(load):
            for index, chunk in step:
                end = chunk.start + len(chunk.tokens)
                assert chunk.num_logits == (end >= load.prompt_lens[index]), load


def test_a_slot_holds_one_request_until_it_is_done() -> None:
    for load in LOADS:
        holders: dict[int, list[int]] = defaultdict(list)
        for step in run(load):
            slots = [chunk.slot for _, chunk in step]
            assert len(set(slots)) == len(slots), load
            assert set(slots) <= set(range(load.info.num_slots)), load
            for index, chunk in step:
                if index not in holders[chunk.slot][-1:]:
                    holders[chunk.slot].append(index)
        everyone = [index for row in holders.values() for index in row]
        assert sorted(everyone) == list(range(len(load.prompt_lens))), f"moved, or came back: {load}"


def test_chunks_keep_to_their_budget() -> None:
    for load in LOADS:
        for step in run(load):
            sizes = [len(chunk.tokens) for _, chunk in step]
            if load.info.is_ragged:
                num_last_ones = sum(len(chunk.tokens) == 1 and chunk.num_logits == 1 for _, chunk in step)
                assert sum(sizes) <= max(load.info.chunk_len, num_last_ones), load
            else:
                assert max(sizes) <= load.info.chunk_len, load


def test_an_answer_never_waits_in_a_ragged_session() -> None:
    for load in LOADS:
        if load.info.is_ragged:
            times = defaultdict(list)
            for time, step in enumerate(run(load)):
                for index, chunk in step:
                    if chunk.start >= load.prompt_lens[index]:
                        times[index].append(time)
            assert all(found[-1] - found[0] == len(found) - 1 for found in times.values()), load


def test_answers_do_not_pay_for_a_prompts_width_in_a_uniform_session() -> None:
    for load in LOADS:
        if not load.info.is_ragged:
            for step in run(load):
                pending = {load.prompt_lens[index] - chunk.start > 1 for index, chunk in step}
                assert len(pending) == 1, load


@pytest.mark.parametrize(("is_ragged", "num_steps"), [(True, 60), (False, 70)])
def test_a_long_prompt_beside_an_answer(is_ragged: bool, num_steps: int) -> None:
    """80 prompt tokens in chunks of 8: they ride along with the 60 tokens of the answer, or go before it."""
    steps = run(Load(info(2, 8, is_ragged), (1, 80), (60, 1)))
    assert len(steps) == num_steps
    assert [sum(len(chunk.tokens) for _, chunk in step) for step in steps[:10]] == [8] * 10


@pytest.mark.parametrize("is_ragged", [False, True])
def test_equal_requests_advance_side_by_side(is_ragged: bool) -> None:
    assert [len(step) for step in run(Load(info(4, 100, is_ragged), (5,) * 4, (10,) * 4))] == [4] * 10


@pytest.mark.parametrize("is_ragged", [False, True])
def test_slots_are_used_again(is_ragged: bool) -> None:
    steps = run(Load(info(2, 16, is_ragged), (3,) * 9, (4,) * 9))
    used = [{index for step in steps for index, chunk in step if chunk.slot == slot} for slot in (0, 1)]
    assert used[0] | used[1] == set(range(9))
    assert min(map(len, used)) >= 4
