"""A request, its new tokens, and what the engine keeps for it while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

import numpy as np

from QEfficient.errors import CapacityError, NumericError, OptionError, QEffError
from QEfficient.generation.logits.history import History
from QEfficient.generation.logits.logprobs import TokenLogprob, token_logprob
from QEfficient.generation.logits.pipeline import NO_TOKEN, AnswerShape, Sampler, choose_tokens, pipeline_of
from QEfficient.generation.logits.processor import Processor
from QEfficient.generation.media import NOTHING, PromptMedia
from QEfficient.generation.scheduler import Sequence
from QEfficient.generation.sessions.session import SessionInfo
from QEfficient.generation.stopping import StopRule
from QEfficient.generation_options import GenerationOptions

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to answer it."""

    prompt_ids: list[int]
    """What the answer continues; of a model with an encoder, what answers start with."""
    max_new_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    sampling: GenerationOptions = field(default_factory=GenerationOptions)
    """Its options, with the checkpoint's as defaults."""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Inputs beside the tokens, by name: ``encoder_input_ids`` ``[T]`` where the model has an encoder."""
    media: PromptMedia = NOTHING
    """The prompt's images, videos and audio."""
    adapter: str | None = None
    """Name of the adapter to answer it with; None: the base model."""
    source_ids: tuple[int, ...] | None = None
    """Tokens that the encoder reads, of a model that has one, else the prompt's; None: it reads no tokens."""
    rules: tuple[Processor, ...] = ()
    """What changes scores after the options did, in order."""
    stops: tuple[StopRule, ...] = ()
    """What ends the answer beside its end tokens."""
    draw: int = 0
    """Which of several answers to one prompt it is; each draws other tokens."""

    def max_len(self, ctx_len: int) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return min(ctx_len, len(self.prompt_ids) + max(1, self.max_new_tokens))


@dataclass(slots=True)
class RequestTimes:
    """Seconds of a request's steps, and the tokens of those that decode.

    A step's time is shared equally by the requests in it, so that the times of several requests add up.
    """

    prefill: float = 0.0
    """In steps that took prompt tokens."""
    decode: float = 0.0
    """In the other steps."""
    num_decoded: int = 0
    """New tokens of the other steps."""
    began: float = field(default_factory=time.perf_counter, compare=False)
    """When the request was made."""
    first_token: float | None = field(default=None, compare=False)
    """From then to its first token, waiting for a slot included."""

    def note(self, seconds: float, *, is_prefill: bool, num_tokens: int) -> None:
        """Add a request's share of a step, and its new tokens."""
        if is_prefill:
            self.prefill += seconds
        else:
            self.decode += seconds
            self.num_decoded += num_tokens

    def note_token(self) -> None:
        """The answer has a new token."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.began

    @classmethod
    def sum(cls, times: Iterable[RequestTimes]) -> RequestTimes:
        """The times of several requests together."""
        total = cls()
        for one in times:
            total.prefill += one.prefill
            total.decode += one.decode
            total.num_decoded += one.num_decoded
        return total


@dataclass(frozen=True, slots=True)
class NewToken:
    """One token of an answer, as it is generated."""

    index: int
    """Which request it belongs to: its place among those of a run, else the id that ``add`` returned."""
    token_id: int
    finish_reason: FinishReason | None = None
    """Set on the answer's last token: "stop" at an end token or what else ends it, "length" when the room is used
    up."""
    times: RequestTimes | None = None
    """Set on the answer's last token."""
    logprob: TokenLogprob | None = None
    """Set where the request asks for it."""


Outcome = NewToken | Exception
"""The result of a step for a request: a token, or the error that ended the request."""
Outbox = SimpleQueue[Outcome | None]
"""Where a caller gets the outcomes of its requests; None wakes it up."""


class RequestState:
    """The state of a request in the engine."""

    def __init__(self, request_id: int, request: Request, *, index: int, outbox: Outbox | None, info: SessionInfo):
        """
        Args:
            request_id: the engine's number for it.
            request: the request.
            index: the caller's number for it, which its tokens carry.
            outbox: where its outcomes go.
            info: of the session that runs it.
        """
        self.request_id = request_id
        self.request = request
        self.index = index
        self.outbox = outbox
        self.times = RequestTimes()
        self.sequence = Sequence(
            request_id,
            list(request.prompt_ids),
            request.max_len(info.ctx_len),
            inputs=request.inputs,
            media=request.media,
            adapter=info.adapter_number(request.adapter),
        )
        self.sampler = _sampler(request, self.sequence.tokens)
        self.logprob: TokenLogprob | None = None
        """Of the token that was chosen last."""

    def accept(self, token_id: int) -> NewToken:
        """Append a token to the answer."""
        sequence = self.sequence
        sequence.tokens.append(token_id)
        self.times.note_token()
        reason: FinishReason | None = None
        if token_id in self.request.eos_token_ids or any(ends(sequence.tokens) for ends in self.request.stops):
            reason = "stop"
        elif len(sequence.tokens) >= sequence.max_len:
            reason = "length"
        return NewToken(self.index, token_id, reason, self.times if reason else None, self.logprob)

    def send(self, outcome: Outcome) -> None:
        """Put an outcome into the caller's queue."""
        if self.outbox is not None:
            self.outbox.put(outcome)


def check_request(request: Request, info: SessionInfo, index: int) -> None:
    """
    Args:
        request: what would be run.
        info: what the session can take.
        index: the request's place among the caller's, for the message.

    Raises:
        CapacityError: the prompt is empty, does not leave room for one new token, or needs more blocks than there are.
        OptionError: a token of the prompt is not in the vocabulary, or there is no such adapter.
    """
    info.adapter_number(request.adapter)
    length = len(request.prompt_ids)
    if not length:
        raise CapacityError(f"Prompt {index} is empty: it has no token to predict from.")
    if length >= info.ctx_len:
        raise CapacityError(
            f"Prompt {index} has {length} tokens and the model was compiled for ctx_len={info.ctx_len}, prompt and "
            f"answer together. Compile with ctx_len of at least {length + max(1, request.max_new_tokens)}, or "
            "shorten the prompt."
        )
    unknown = [
        token for token in request.prompt_ids if not 0 <= token < info.vocab_size and token not in info.other_tokens
    ]
    if unknown:
        raise OptionError(
            f"Prompt {index} has the token id {unknown[0]}, and the model's go from 0 to {info.vocab_size - 1}. "
            "Was it encoded with another model's tokenizer?"
        )
    longest = max((end - begin for begin, end in request.media.spans), default=0)
    if longest > info.chunk_len and not info.takes_long_chunks:
        raise CapacityError(
            f"Prompt {index} has an image of {longest} tokens, which attend to each other, and a step takes "
            f"{info.chunk_len}: compile with prefill_seq_len={longest} or more."
        )
    if info.num_blocks and info.block_len:
        capacity, total = info.num_blocks * info.block_len, request.max_len(info.ctx_len)
        if total > capacity:
            raise CapacityError(
                f"Prompt {index} and its answer come to {total} tokens, and the session's {info.num_blocks} KV blocks "
                f"hold {capacity}. Ask for at most {capacity - length} new tokens, or open the model with more blocks."
            )


def _sampler(request: Request, tokens: list[int]) -> Sampler:
    options, prompt_len = request.sampling, len(request.prompt_ids)
    shape = AnswerShape(
        prompt_len=prompt_len, max_new_tokens=request.max_new_tokens, eos_token_ids=request.eos_token_ids
    )
    seed = options.seed if options.seed is None or not request.draw else [options.seed, request.draw]
    pipeline = pipeline_of(options, shape, request.rules)
    return Sampler(pipeline, History(tokens, prompt_len, request.source_ids), seed)


def choose(logits: np.ndarray, states: list[RequestState]) -> list[int | QEffError]:
    """The next token of each request, from its row of the logits ``[n, vocab]``; an error where they are no numbers,
    or the request's options leave no token."""
    best = logits.argmax(axis=-1)  # NaN if there is one
    is_finite = np.isfinite(logits[np.arange(len(states)), best])
    chosen: list[int | QEffError] = [int(token) for token in best]
    changed = [i for i, state in enumerate(states) if is_finite[i] and not state.sampler.pipeline.is_plain_greedy]
    if changed:
        tokens = choose_tokens(logits[changed], [states[index].sampler for index in changed])
        for index, token in zip(changed, tokens, strict=True):
            chosen[index] = _none_left(states[index]) if token == NO_TOKEN else token
    for index, state in enumerate(states):
        one, count = chosen[index], state.request.sampling.logprobs
        if not is_finite[index]:
            chosen[index] = _not_finite(logits[index, best[index]], state)
        elif count is not None and isinstance(one, int):
            state.logprob = token_logprob(logits[index], one, count)
    return chosen


def _none_left(state: RequestState) -> OptionError:
    place = len(state.sequence.tokens) - state.sequence.prompt_len + 1
    return OptionError(
        f"Prompt {state.index} has no token {place} of its answer: "
        "its options, such as suppress_tokens, bad_words_ids and no_repeat_ngram_size, rule all tokens out."
    )


def _not_finite(value: float, state: RequestState) -> NumericError:
    answer = state.sequence.tokens[state.sequence.prompt_len :]
    return NumericError(
        f"Prompt {state.index} has no token {len(answer) + 1} of its answer: the largest of its logits is {value}. "
        "The model overflows, or the checkpoint is damaged. On cpu try precision='fp32'; on a card run "
        "`qefficient verify`, which names the layer and writes node_precision_info for it.",
        answer,
    )
