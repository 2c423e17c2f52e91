"""What a system is asked and what it gives back, and the figures taken from that: the same for every system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_SEQUENCES = 8
"""Prompts of the batched request."""
CONTEXT_LEN = 1024
"""Prompt and answer together, for systems that must know it when they load."""


@dataclass(frozen=True)
class Answer:
    """New tokens of each prompt and when each of them arrived, in seconds after the request."""

    ids: list[list[int]]
    arrivals: list[list[float]]

    @classmethod
    def of_steps(cls, tokens: Sequence[Sequence[int]], times: Sequence[float]) -> Answer:
        """From lockstep decoding: ``tokens[step][row]`` came at ``times[step]``."""
        rows = range(len(tokens[0]))
        return cls([[int(step[row]) for step in tokens] for row in rows], [list(times) for _ in rows])


def first_token_s(answer: Answer) -> float:
    """Seconds until every prompt has its first token."""
    return max(times[0] for times in answer.arrivals)


def decode_rate(answer: Answer) -> float:
    """New tokens a second, over all sequences, while all of them decode and none takes prompt tokens.

    A system may start answering one prompt while it still reads the next: those tokens are not counted.

    Raises:
        ValueError: the sequences never decode all at once; they need more new tokens.
    """
    begin, end = first_token_s(answer), min(times[-1] for times in answer.arrivals)
    count = sum(begin < time <= end for times in answer.arrivals for time in times)
    if count < len(answer.arrivals):
        raise ValueError("The answers are too short to see all sequences decode at once: ask for more new tokens.")
    return count / (end - begin)


def fresh_prompts(vocab_size: int, prompt_len: int, seed: int) -> list[list[int]]:
    """``NUM_SEQUENCES`` prompts that no system has seen: some keep what they computed for a prefix."""
    rng = np.random.default_rng(seed)
    return rng.integers(2, vocab_size, (NUM_SEQUENCES, prompt_len)).tolist()
