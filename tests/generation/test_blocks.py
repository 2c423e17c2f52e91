"""The pool of KV blocks."""

from __future__ import annotations

import random

import pytest

from QEfficient.errors import CapacityError
from QEfficient.generation.blocks import BlockPool


def test_no_block_has_two_holders_and_none_is_lost() -> None:
    r = random.Random(0)
    pool = BlockPool(50, 16)
    holders: list[list[int]] = []
    for _ in range(2000):
        count = r.randint(0, 9)
        if count <= pool.num_free and r.random() < 0.6:
            holders.append(list(pool.allocate(count)))
            assert len(holders[-1]) == count
        elif holders:
            pool.free(holders.pop(r.randrange(len(holders))))
        used = [block_id for holder in holders for block_id in holder]
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(50))
        assert pool.num_free == 50 - len(used)
    for holder in holders:
        pool.free(holder)
    assert sorted(pool.allocate(50)) == list(range(50))


@pytest.mark.parametrize(("num_tokens", "count"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_tokens_take_whole_blocks(num_tokens: int, count: int) -> None:
    assert BlockPool(10, 16).count(num_tokens) == count


def test_blocks_of_an_empty_pool_lie_side_by_side() -> None:
    pool = BlockPool(10, 16)
    assert list(pool.allocate(4)) == [0, 1, 2, 3]
    assert list(pool.allocate(3)) == [4, 5, 6]


def test_too_many_are_refused_and_none_is_taken() -> None:
    pool = BlockPool(10, 16)
    pool.allocate(4)
    with pytest.raises(CapacityError, match="7 KV blocks of 16 tokens are needed, 6 of 10 are free"):
        pool.allocate(7)
    assert pool.num_free == 6


def test_reset_frees_all_but_the_used() -> None:
    pool = BlockPool(6, 16)
    pool.allocate(5)
    pool.reset([1, 3])
    assert list(pool.allocate(4)) == [0, 2, 4, 5]
