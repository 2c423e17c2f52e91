"""The scheduler over random loads, in whole numbers: what every session may rely on."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import pytest

from QEfficient.generation.scheduler import Scheduler, Sequence, Step
from QEfficient.generation.sessions.session import Chunk, SessionInfo

NumberedStep = list[tuple[int, Chunk]]


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
def run(load: Load) -> list[NumberedStep]:
    """All steps, each as ``(request, chunk)`` pairs."""
    scheduler = Scheduler(load.info)
    for index, length in enumerate(load.prompt_lens):
        scheduler.add(Sequence(index, load.tokens(index)[:length], len(load.tokens(index))))
    steps: list[NumberedStep] = []
    while not scheduler.is_done:
        step = scheduler.schedule()
        assert step, "a step with nothing in it would go on for ever"
        assert len(scheduler.running) == load.info.num_slots or not scheduler.waiting, "an idle slot, and one waits"
        steps.append([(sequence.request_id, chunk) for sequence, chunk in step])
        for sequence, chunk in step:
            scheduler.advance(sequence, chunk)
            if chunk.num_logits:
                sequence.tokens.append(load.tokens(sequence.request_id)[len(sequence.tokens)])
                if len(sequence.tokens) == len(load.tokens(sequence.request_id)):
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
                assert sum(sizes) <= max(load.info.chunk_len, num_last_ones + -(-load.info.chunk_len // 4)), load
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
    """80 prompt tokens in chunks of 8: they ride along with the 60 tokens of the answer, or take every other step."""
    steps = run(Load(info(2, 8, is_ragged), (1, 80), (60, 1)))
    assert len(steps) == num_steps
    sizes = [sum(len(chunk.tokens) for _, chunk in step) for step in steps[:20]]
    assert sizes[:10] == [8] * 10 if is_ragged else sizes == [8, 1] * 10


@pytest.mark.parametrize("is_ragged", [False, True])
def test_equal_requests_advance_side_by_side(is_ragged: bool) -> None:
    assert [len(step) for step in run(Load(info(4, 100, is_ragged), (5,) * 4, (10,) * 4))] == [4] * 10


@pytest.mark.parametrize("is_ragged", [False, True])
def test_slots_are_used_again(is_ragged: bool) -> None:
    steps = run(Load(info(2, 16, is_ragged), (3,) * 9, (4,) * 9))
    used = [{index for step in steps for index, chunk in step if chunk.slot == slot} for slot in (0, 1)]
    assert used[0] | used[1] == set(range(9))
    assert min(map(len, used)) >= 4


def finish(scheduler: Scheduler, step: Step) -> list[int]:
    """Take a step as a session and a sampler would; the requests that got a token."""
    answered = []
    for sequence, chunk in step:
        scheduler.advance(sequence, chunk)
        if chunk.num_logits:
            answered.append(sequence.request_id)
            sequence.tokens.append(0)
            if len(sequence.tokens) == sequence.max_len:
                scheduler.release(sequence)
    return answered


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize(("num_slots", "chunk_len"), [(2, 8), (8, 4), (4, 1), (16, 128)])
def test_neither_answers_nor_prompts_starve_while_requests_keep_coming(
    is_ragged: bool, num_slots: int, chunk_len: int
) -> None:
    r = random.Random(0)
    scheduler = Scheduler(info(num_slots, chunk_len, is_ragged))
    answered: list[list[int]] = []
    prompt_steps = []
    for time in range(600):
        while len(scheduler.waiting) < 3:
            length = r.choice([1, 5, 40])
            scheduler.add(Sequence(len(answered), [0] * length, length + r.choice([1, 3, 30])))
            answered.append([])
        step = scheduler.schedule()
        if any(chunk.start < sequence.prompt_len for sequence, chunk in step):
            prompt_steps.append(time)
        elif all(sequence.num_cached >= sequence.prompt_len for sequence in scheduler.running):
            prompt_steps.append(time)  # no prompt was there
        for request_id in finish(scheduler, step):
            answered[request_id].append(time)
    assert max(map(largest_gap, answered)) <= (1 if is_ragged else 2)
    assert largest_gap(prompt_steps) <= (1 if is_ragged else 2)
    assert sum(map(bool, answered)) > 20, "requests are answered, not only begun"


def largest_gap(times: list[int]) -> int:
    """Most steps from one to the next."""
    return max((after - before for before, after in pairwise(times)), default=0)


def test_prompts_get_a_part_of_a_step_that_answers_would_fill() -> None:
    scheduler = Scheduler(info(9, 8, is_ragged=True))
    for request_id in range(8):
        scheduler.add(Sequence(request_id, [0], 100))
    finish(scheduler, scheduler.schedule())
    scheduler.add(Sequence(8, [0] * 10, 11))
    steps = [scheduler.schedule()]
    while len(steps) < 5:
        finish(scheduler, steps[-1])
        steps.append(scheduler.schedule())
    assert [len(chunk.tokens) for step in steps for sequence, chunk in step if sequence.request_id == 8] == [2] * 5


def paged(num_slots: int, num_blocks: int) -> Scheduler:
    """With blocks of 10 tokens."""
    return Scheduler(replace(info(num_slots, 100, is_ragged=True), block_len=10, num_blocks=num_blocks))


def test_blocks_are_those_of_the_longest_answer_from_the_start() -> None:
    scheduler = paged(4, 8)
    for request_id, max_len in enumerate([10, 11, 49]):
        scheduler.add(Sequence(request_id, [0] * 5, max_len))
    step = scheduler.schedule()
    assert [len(chunk.block_ids) for _, chunk in step] == [1, 2, 5]
    assert sorted(block_id for _, chunk in step for block_id in chunk.block_ids) == list(range(8))
    assert scheduler.blocks is not None
    assert scheduler.blocks.num_free == 0
    while not scheduler.is_done:
        finish(scheduler, scheduler.schedule())
    assert scheduler.blocks.num_free == 8


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    scheduler = paged(4, 8)
    for request_id, max_len in enumerate([40, 80, 10, 10]):
        scheduler.add(Sequence(request_id, [0] * 5, max_len))
    begun = []
    while not scheduler.is_done:
        step = scheduler.schedule()
        begun += [sequence.request_id for sequence, chunk in step if not chunk.start]
        if 1 in begun[-1:]:
            assert [sequence.request_id for sequence in scheduler.running] == [1]
        finish(scheduler, step)
    assert begun == [0, 1, 2, 3]


def test_what_is_removed_leaves_its_slot_and_blocks() -> None:
    scheduler = paged(2, 8)
    sequences = [Sequence(request_id, [0] * 5, 40) for request_id in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert [sequence.request_id for sequence, _ in scheduler.schedule()] == [0, 1]
    scheduler.remove(sequences[2])
    scheduler.remove(sequences[0])
    scheduler.remove(sequences[0])
    scheduler.add(Sequence(3, [0], 40))
    assert [sequence.request_id for sequence, _ in scheduler.schedule()] == [3, 1]
    scheduler.remove(sequences[1])
    assert [sequence.request_id for sequence in scheduler.running] == [3]
    assert not scheduler.waiting
