"""A session without a model, whose next token depends on all tokens of the sequence, so that any mix-up shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from threading import Lock

import numpy as np

from QEfficient.generation.logits.history import History
from QEfficient.generation.logits.pipeline import AnswerShape, Sampler, choose_tokens, pipeline_of
from QEfficient.generation.request import NewToken, Request
from QEfficient.generation.sessions.session import Chunk, SessionInfo
from QEfficient.generation_options import GenerationOptions

VOCAB, CTX_LEN, BLOCK_LEN = 50, 64, 8


def logits_after(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """A language model without weights: the logits are a function of the whole sequence."""
    return _logits_after(tuple(map(int, tokens)))


@lru_cache(maxsize=100_000)
def _logits_after(tokens: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([len(tokens), *tokens]).normal(0, 2, VOCAB).astype(np.float32)


class FakeSession:
    """Keeps the tokens of each sequence as a real one keeps their state: by slot, or in blocks if it has any.

    Args:
        num_slots: sequences at once.
        chunk_len: tokens of a step, of each sequence or of all.
        is_ragged: which of the two.
        num_blocks: blocks of ``BLOCK_LEN`` tokens; None: the session does not page.
    """

    def __init__(
        self, num_slots: int = 2, chunk_len: int = 8, is_ragged: bool = True, *, num_blocks: int | None = None
    ):
        self.info = SessionInfo(
            num_slots=num_slots,
            ctx_len=CTX_LEN,
            chunk_len=chunk_len,
            is_ragged=is_ragged,
            vocab_size=VOCAB,
            block_len=BLOCK_LEN if num_blocks else None,
            num_blocks=num_blocks,
        )
        self.memory = np.full((num_blocks or num_slots, BLOCK_LEN if num_blocks else CTX_LEN), -1)
        self.steps: list[list[Chunk]] = []
        self.is_closed = False
        self._logits = np.empty((num_slots, VOCAB), np.float32)
        self._running = Lock()

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        assert not self._running.locked(), "two steps at once"
        with self._running:
            assert not self.is_closed
            self.before(chunks)
            self.steps.append(list(chunks))
            return self._run(chunks)

    def before(self, chunks: Sequence[Chunk]) -> None:
        """What a test does within a step."""

    def _run(self, chunks: Sequence[Chunk]) -> np.ndarray:
        places = [place for chunk in chunks for place in self._places(chunk)]
        assert len(set(places)) == len(places), "two sequences share memory"
        rows = []
        for chunk in chunks:
            end = chunk.start + len(chunk.tokens)
            assert 0 <= chunk.slot < self.info.num_slots
            assert 0 < end <= CTX_LEN
            tokens = self.memory[self._places(chunk)].reshape(-1)
            tokens[chunk.start : end] = chunk.tokens
            self.memory[self._places(chunk)] = tokens.reshape(-1, self.memory.shape[1])
            assert -1 not in tokens[:end], "a hole in the state"
            if chunk.num_logits:
                rows.append(logits_after(tokens[:end]))
        self._logits[:] = np.nan  # what the step before gave is no longer valid
        self._logits[: len(rows)] = np.reshape(rows, (-1, VOCAB))
        return self._logits[: len(rows)]

    def _places(self, chunk: Chunk) -> list[int]:
        return list(chunk.block_ids) if self.info.num_blocks else [chunk.slot]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


def request(
    prompt: list[int], most: int = CTX_LEN, eos: Sequence[int] = (), options: GenerationOptions | None = None
) -> Request:
    return Request(
        prompt_ids=prompt,
        max_new_tokens=most,
        eos_token_ids=frozenset(eos),
        sampling=options or GenerationOptions(),
    )


def alone(asked: Request) -> list[int]:
    """The answer, worked out without engine, scheduler or session."""
    tokens = list(asked.prompt_ids)
    shape = AnswerShape(prompt_len=len(tokens), max_new_tokens=asked.max_new_tokens, eos_token_ids=asked.eos_token_ids)
    pipeline = pipeline_of(asked.sampling, shape)
    sampler = Sampler(pipeline, History(tokens, len(tokens)), asked.sampling.seed)
    while len(tokens) < min(CTX_LEN, len(asked.prompt_ids) + asked.max_new_tokens):
        tokens += choose_tokens(logits_after(tokens)[None], [sampler])
        if tokens[-1] in asked.eos_token_ids:
            break
    return tokens[len(asked.prompt_ids) :]


def answers(tokens: Iterable[NewToken], count: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(count)]
    for token in tokens:
        found[token.index].append(token.token_id)
    return found
