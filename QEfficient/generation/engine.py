"""The loop that turns requests into tokens, the same over every target."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.generation.sampling import Sampler
from QEfficient.generation.scheduler import Scheduler, Sequence
from QEfficient.generation.sessions.session import Chunk, Session
from QEfficient.options import SamplingOptions

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to answer it."""

    prompt_ids: list[int]
    """What the answer continues; of a model with an encoder, what answers start with."""
    max_new_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, by name: ``encoder_input_ids`` ``[T]`` where the model has an encoder."""
    forced_ids: Mapping[int, int] = field(default_factory=dict)
    """Tokens that the answer has at these places, 0 the first, whatever the model predicts."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """One token of an answer, as it comes."""

    index: int
    """Which request it belongs to."""
    token_id: int
    finish_reason: FinishReason | None = None
    """Set on the answer's last token: "stop" at an end token, "length" when the room is used up."""


@dataclass(slots=True)
class StepTimes:
    """Where the time went, in seconds, and how many tokens came of it."""

    prefill: float = 0.0
    """In steps that took prompt tokens."""
    decode: float = 0.0
    """In the other steps."""
    num_decoded: int = 0
    """Tokens that came of the other steps, over all sequences."""


class Engine:
    """Runs requests over a session, as many at once as it has slots."""

    def __init__(self, session: Session):
        self.session = session
        self.times = StepTimes()
        self._scheduler: Scheduler | None = None

    def check(self, request: Request, index: int = 0) -> None:
        """
        Args:
            request: what would be run.
            index: its place among the requests, for the message.

        Raises:
            CapacityError: the prompt is empty or does not leave room for one new token.
            OptionError: a token of the prompt is none that the model knows.
        """
        length, info = len(request.prompt_ids), self.session.info
        if not length:
            raise CapacityError(f"Prompt {index} is empty: it has no token to predict from.")
        if length >= info.ctx_len:
            raise CapacityError(
                f"Prompt {index} has {length} tokens and the model was compiled for ctx_len={info.ctx_len}, prompt and "
                f"answer together. Compile with ctx_len of at least {length + max(1, request.max_new_tokens)}, or "
                "shorten the prompt."
            )
        unknown = [token for token in request.prompt_ids if not 0 <= token < info.vocab_size]
        if unknown:
            raise OptionError(
                f"Prompt {index} has the token id {unknown[0]}, and the model's go from 0 to {info.vocab_size - 1}. "
                "Was it encoded with another model's tokenizer?"
            )

    def run(self, requests: Iterable[Request]) -> Iterator[NewToken]:
        """Tokens as they come, of all requests mixed; each request's own are in order.

        Closing the iterator cancels what is left. So does another run: the session's slots are then that one's, and
        the iterator raises LifecycleError.

        Raises:
            CapacityError, OptionError: see :meth:`check`; before anything runs.
        """
        requests = list(requests)
        for index, request in enumerate(requests):
            self.check(request, index)
        return self._run(requests)

    def _run(self, requests: list[Request]) -> Iterator[NewToken]:
        self.times = StepTimes()
        scheduler = self._scheduler = Scheduler(self.session.info)
        samplers = [Sampler(request.sampling) for request in requests]
        for index, request in enumerate(requests):
            scheduler.add(Sequence(index, list(request.prompt_ids), inputs=request.inputs))
        while not scheduler.is_done:
            if self._scheduler is not scheduler:
                raise LifecycleError(
                    "This run is over: another one was started on the same package before it was done, and took its "
                    "slots. Finish one before the next, or give all prompts to one generate()."
                )
            step = scheduler.schedule()
            for sequence, token in self._step(scheduler, step, samplers, requests):
                request = requests[sequence.index]
                reason = self._finish_reason(request, sequence, token)
                if reason is not None:
                    scheduler.release(sequence)
                yield NewToken(sequence.index, token, reason)

    def _step(
        self,
        scheduler: Scheduler,
        step: list[tuple[Sequence, Chunk]],
        samplers: list[Sampler],
        requests: list[Request],
    ) -> list[tuple[Sequence, int]]:
        began = time.perf_counter()
        is_prefill = any(chunk.start < sequence.prompt_len for sequence, chunk in step)
        logits = self.session.step([chunk for _, chunk in step])
        for sequence, chunk in step:
            scheduler.advance(sequence, chunk)
        predicted = [sequence for sequence, chunk in step if chunk.num_logits]
        forced = [requests[s.index].forced_ids.get(len(s.tokens) - s.prompt_len) for s in predicted]
        chosen = _choose(logits, predicted, samplers)
        tokens = [own if token is None else token for own, token in zip(chosen, forced, strict=True)]
        for sequence, token in zip(predicted, tokens, strict=True):
            sequence.tokens.append(token)
        self._note_time(time.perf_counter() - began, is_prefill, len(tokens))
        return list(zip(predicted, tokens, strict=True))

    def _note_time(self, seconds: float, is_prefill: bool, num_tokens: int) -> None:
        if is_prefill:
            self.times.prefill += seconds
        else:
            self.times.decode += seconds
            self.times.num_decoded += num_tokens

    def _finish_reason(self, request: Request, sequence: Sequence, token: int) -> FinishReason | None:
        if token in request.eos_token_ids:
            return "stop"
        num_new = len(sequence.tokens) - sequence.prompt_len
        is_full = len(sequence.tokens) >= self.session.info.ctx_len
        return "length" if num_new >= request.max_new_tokens or is_full else None


def _choose(logits: np.ndarray, sequences: list[Sequence], samplers: list[Sampler]) -> list[int]:
    if not sequences:
        return []
    own = [samplers[sequence.index] for sequence in sequences]
    if all(sampler.is_plain_greedy for sampler in own):
        return [int(token) for token in logits.argmax(axis=-1)]
    return [sampler.choose(row, sequence.tokens) for sampler, row, sequence in zip(own, logits, sequences, strict=True)]
