"""Eight threads over one package: each answer is the one that its prompt gets alone, whatever others do to theirs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tiny_models
from architectures.tiny import tiny_model

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM, from_package

pytestmark = pytest.mark.xdist_group("fault packages")
NUM_THREADS = 8
PROMPTS = [[5, 6, 7 + seed, *range(10, 10 + seed % 5)] for seed in range(40)]
CPU: dict[str, Any] = {"target": "cpu", "precision": "fp32"}
KINDS: dict[str, Callable[[], Any]] = {
    "paged": lambda: causal_lm(ctx_len=32, full_batch_size=3, **CPU),
    "retained": lambda: causal_lm(ctx_len=32, full_batch_size=3, lowering="retained", **CPU),
    "card": lambda: causal_lm(target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8, full_batch_size=3),
    "seq2seq": lambda: QEFFAutoModelForSeq2SeqLM(tiny_model("seq2seq", "bart")).compile(
        ctx_len=16, encoder_ctx_len=16, full_batch_size=3, **CPU
    ),
    "encoder": lambda: QEFFAutoModel(tiny_model("text_encoder", "roberta")).compile(seq_len=16, batch_size=2, **CPU),
}


def causal_lm(**options: Any) -> Any:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())
    return model.compile(**options)


@pytest.fixture(params=[300, pytest.param(10_000, marks=pytest.mark.sweep)], ids=["few", "many"])
def num_answers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=sorted(KINDS))
def compiled(request: pytest.FixtureRequest) -> Iterator[Any]:
    with from_package(KINDS[request.param]()) as opened:
        yield opened


def answer(compiled: Any, prompt: list[int], **options: Any) -> list[Any]:
    if not compiled.takes_chat:
        return [np.asarray(compiled.generate([prompt])["output"]).tolist()]
    return compiled.generate([prompt], generation_len=4, **options).generated_ids[0].tolist()


def count_wrong(compiled: Any, num_answers: int, disturb: Callable[[Any, list[int], random.Random], bool]) -> list[int]:
    expected = [answer(compiled, prompt) for prompt in PROMPTS]

    def work(seed: int) -> int:
        r, num_wrong = random.Random(seed), 0
        for _ in range(num_answers // NUM_THREADS):
            index = r.randrange(len(PROMPTS))
            if not disturb(compiled, PROMPTS[index], r):
                num_wrong += answer(compiled, PROMPTS[index]) != expected[index]
        return num_wrong

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        wrong = list(pool.map(work, range(NUM_THREADS)))
    assert [answer(compiled, prompt) for prompt in PROMPTS] == expected
    return wrong


def test_no_answer_is_wrong(compiled: Any, num_answers: int) -> None:
    assert count_wrong(compiled, num_answers, lambda *_: False) == [0] * NUM_THREADS


class Interrupting:
    """A tokenizer in whose callback Ctrl-C comes."""

    def __call__(self, *_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    def decode(self, *_: object, **__: object) -> str:
        raise KeyboardInterrupt


def cancel_or_interrupt(compiled: Any, prompt: list[int], r: random.Random) -> bool:
    """One in three calls ends early: its iterator is dropped, or an interrupt comes while its text is made."""
    chance = r.random()
    if chance > 1 / 3 or not compiled.takes_chat:
        return False
    if chance < 1 / 6:
        with pytest.raises(KeyboardInterrupt):
            compiled.generate([prompt], generation_len=4, tokenizer=Interrupting())
        return True
    tokens = compiled.stream(prompt, generation_len=4, tokenizer=tiny_models.tiny_tokenizer())
    next(tokens, None)
    tokens.close() if chance < 1 / 4 else None
    del tokens
    return True


def test_no_answer_is_wrong_where_others_are_cancelled(compiled: Any, num_answers: int) -> None:
    assert count_wrong(compiled, num_answers, cancel_or_interrupt) == [0] * NUM_THREADS
