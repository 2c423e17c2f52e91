"""Features by token: what a step gets of a prompt's images, whatever tokens of it the step has."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from QEfficient.contract import INDEX
from QEfficient.errors import CapacityError
from QEfficient.generation.media import MediaLayout, MediaPacker, Part, PromptMedia, spans_of
from QEfficient.generation.media_encoder import FeatureCache
from QEfficient.generation.request import Request, check_request
from QEfficient.generation.scheduler import Scheduler, Sequence
from QEfficient.generation.sessions.session import SessionInfo

WIDTH = 3
LAYOUT = MediaLayout(
    placeholders={"image": 9}, width=WIDTH, has_pooled=True, token_types=("kinds",), num_positions=2, block_types=(1,)
)


def media(pattern: str, base: float) -> PromptMedia:
    """A prompt with a placeholder for each ``x``; row i of its features is ``base + i``."""
    shown = np.array([letter == "x" for letter in pattern])
    rows = np.repeat(base + np.arange(shown.sum(), dtype=np.float32)[:, None], WIDTH, 1)
    coordinates = np.stack([np.arange(len(pattern)), 2 * np.arange(len(pattern))])
    return PromptMedia(shown, rows, None, MappingProxyType({"kinds": shown.astype(np.int64)}), coordinates)


def shown_rows(inputs: dict[str, np.ndarray], name: str = "vision_embeds") -> list[float | None]:
    """The value of the row that each token of one axis stands for."""
    return [None if row < 0 else float(inputs[name][0, row, 0]) for row in inputs[INDEX][0]]


def test_a_ragged_step_reads_the_rows_of_its_tokens() -> None:
    first, second = media("..xx..", 10), media("x.xxx", 20)
    parts = [Part(0, first, 3, 2), Part(1, second, 1, 3), Part(2, first, 6, 1)]
    inputs = MediaPacker(LAYOUT).ragged(parts)
    assert shown_rows(inputs) == [11.0, None, None, 21.0, 22.0, None]
    assert inputs["kinds"].tolist() == [[1, 0, 0, 1, 1, 0]]


def test_new_tokens_have_positions_after_the_largest_coordinate() -> None:
    inputs = MediaPacker(LAYOUT).ragged([Part(0, media("..xx", 0), 3, 3)])
    assert inputs["position_ids"][:, 0].tolist() == [[3, 4, 5], [3, 7, 8], [6, 7, 8]]


def test_rows_of_a_batch_have_features_of_their_own() -> None:
    first, second = media(".xx", 10), media("x..", 20)
    positions = np.array([[0, 1, 2], [0, 1, -1]])
    inputs = MediaPacker(LAYOUT).rows([Part(0, first, 0, 3), Part(1, second, 0, 2)], positions)
    assert inputs["vision_embeds"][:, :, 0].tolist() == [[10, 11], [20, 0]]
    assert inputs[INDEX].tolist() == [[-1, 0, 1], [0, -1, -1]]


@pytest.mark.parametrize("start", [0, 2])
def test_a_program_that_counts_is_told_where_nothing_is(start: int) -> None:
    """Past the last row, a token that looks like a placeholder stands for none."""
    prompt = media("xx..", 10)
    positions = np.arange(start, start + 2)[None]
    inputs = MediaPacker(LAYOUT).rows([Part(0, prompt, start, 2)], positions, sizes=(1, 4))
    assert inputs["vision_embeds"].shape == (1, 4, WIDTH)
    assert inputs["image_idx"].tolist() == [[0 if start == 0 else 4]]


def test_blocks_are_runs_of_their_types() -> None:
    types = np.array([0, 1, 1, 1, 0, 1, 2, 2])
    assert spans_of(types, (1,)) == ((1, 4),)
    assert spans_of(types, (1, 2)) == ((1, 4), (6, 8))
    assert spans_of(np.zeros(5, np.int64), (0,)) == ((0, 5),)


@pytest.mark.parametrize(("spans", "expected"), [(((3, 6),), [3, 4, 1]), (((0, 7),), [7, 1]), ((), [4, 4])])
def test_the_scheduler_does_not_split_blocks(spans: tuple[tuple[int, int], ...], expected: list[int]) -> None:
    info = SessionInfo(num_slots=1, ctx_len=64, chunk_len=4, is_ragged=False, vocab_size=100, takes_long_chunks=True)
    scheduler = Scheduler(info)
    prompt = PromptMedia(np.zeros(8, bool), spans=spans)
    scheduler.add(Sequence(0, list(range(8)), 9, media=prompt))
    lengths = []
    while sum(lengths) < 8:
        ((sequence, chunk),) = scheduler.schedule()
        scheduler.advance(sequence, chunk)
        lengths.append(len(chunk.tokens))
    assert lengths == expected


def test_blocks_that_do_not_fit_a_step_say_what_to_compile() -> None:
    info = SessionInfo(num_slots=1, ctx_len=64, chunk_len=4, is_ragged=False, vocab_size=100)
    request = Request(prompt_ids=[1] * 8, max_new_tokens=1, media=PromptMedia(np.zeros(8, bool), spans=((1, 7),)))
    with pytest.raises(CapacityError, match=r"image of 6 tokens, .* compile with prefill_seq_len=6"):
        check_request(request, info, 0)
    check_request(request, replace(info, takes_long_chunks=True), 0)


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    row = np.zeros((1, 1024), np.float32)  # 4 KiB
    cache, made = FeatureCache(max_bytes=10 << 10), []

    def make(key: str) -> None:
        cache.get(key, lambda: (made.append(key), (row, None))[1])

    for key in ("a", "b", "a", "c", "a", "b"):
        make(key)
    assert made == ["a", "b", "c", "b"]
