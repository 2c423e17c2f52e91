"""Perplexity of a causal LM over a text, in windows of a fixed length, on whatever gives logits.

The windows are those of Hugging Face's guide: each begins ``stride`` tokens after the one before, and scores the tokens
that no earlier window has scored. The first token of a window that has no token before it is not scored. Neither torch
nor transformers is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import CapacityError, NumericError, OptionError
from QEfficient.generation.prompts import checked_text
from QEfficient.generation.sessions.session import Chunk, Session, SessionInfo
from QEfficient.progress import counted
from QEfficient.store.digests import json_safe

if TYPE_CHECKING:
    from QEfficient.generation.prompts import TokenIds
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM

_LOGITS_BYTES = 64 << 20
"""Maximum of the logits that one step returns."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``begin`` to ``end`` of a text, of which those from ``first_scored`` on are scored."""

    begin: int
    end: int
    first_scored: int


@dataclass(frozen=True, kw_only=True)
class PerplexityReport:
    """How well a model predicts a text."""

    num_tokens: int
    """Of the text, as far as it was read."""
    num_scored: int
    """Tokens whose probability was taken."""
    num_windows: int
    ctx_len: int
    """Maximum tokens of a window."""
    stride: int
    """Tokens between the starts of two windows."""
    nll: float
    """Negative log-likelihood per scored token, in nats."""

    @property
    def perplexity(self) -> float:
        """The exponential of :attr:`nll`."""
        return math.exp(self.nll) if self.nll < 709 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: that is None."""
        values: dict[str, Any] = json_safe({**asdict(self), "perplexity": self.perplexity}, finite=True)
        return values

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity:.6g}, {self.nll:.6g} nats per token: {self.num_scored} of {self.num_tokens} "
            f"tokens in {self.num_windows} window(s) of {self.ctx_len}, stride {self.stride}"
        )


Scorer = Callable[[Sequence[int], Sequence[Window]], Iterator[float]]
"""``(ids, windows)`` to the negative log-likelihood of each window's scored tokens together, in order."""


def windows(num_tokens: int, ctx_len: int, stride: int) -> Iterator[Window]:
    """The windows over a text of ``num_tokens`` tokens that score any."""
    begin, num_done = 0, 0
    while num_done < num_tokens:
        end = min(begin + ctx_len, num_tokens)
        first = max(num_done, begin + 1)
        if first < end:
            yield Window(begin, end, first)
        begin, num_done = begin + stride, end


def check_lens(ctx_len: int | None, stride: int | None, max_tokens: int | None) -> None:
    """
    Raises:
        OptionError: a length is too small, or a stride leaves tokens out.
    """
    for name, value in {"ctx_len": ctx_len, "stride": stride, "max_tokens": max_tokens}.items():
        least = 1 if name == "stride" else 2
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    if ctx_len is not None and stride is not None and stride > ctx_len:
        raise OptionError(f"stride={stride} is beyond ctx_len={ctx_len}, so that tokens between windows are left out.")


def check_not_empty(text: str) -> None:
    """
    Raises:
        OptionError: there is no text, or it is not valid Unicode.
    """
    if not checked_text(text).strip():
        raise OptionError("The text is empty: perplexity needs at least two tokens.")


def measure(
    score: Scorer, ids: Sequence[int], *, ctx_len: int, stride: int | None = None, max_tokens: int | None = None
) -> PerplexityReport:
    """Perplexity over a text.

    Args:
        score: runs the model.
        ids: the text.
        ctx_len: maximum tokens of a window.
        stride: tokens from window to window; None: ``ctx_len``, so that windows do not overlap.
        max_tokens: read only so many tokens of the text; None: all.

    Raises:
        OptionError: the text has fewer than two tokens, or a length does not fit.
        NumericError: a probability is not a number.
    """
    stride = ctx_len if stride is None else stride
    check_lens(ctx_len, stride, max_tokens)
    ids = ids[:max_tokens]
    if len(ids) < 2:
        raise OptionError(f"The text has {len(ids)} token(s): perplexity needs at least two.")
    planned = list(windows(len(ids), ctx_len, stride))
    total = 0.0
    with counted("Evaluating", f"{len(ids)} tokens in {len(planned)} windows", len(planned)) as advance:
        for window, nll in zip(planned, score(ids, planned), strict=True):
            if not math.isfinite(nll):
                raise _not_finite(window, nll)
            total += nll
            advance()
    num_scored = sum(window.end - window.first_scored for window in planned)
    return PerplexityReport(
        num_tokens=len(ids),
        num_scored=num_scored,
        num_windows=len(planned),
        ctx_len=ctx_len,
        stride=stride,
        nll=total / num_scored,
    )


def _not_finite(window: Window, nll: float) -> NumericError:
    return NumericError(
        f"The negative log-likelihood of tokens {window.first_scored} to {window.end - 1} is {nll}: the model "
        "overflows, or the checkpoint is damaged. On cpu try precision='fp32'; on a card run `qefficient verify`."
    )


def measure_package(
    compiled: CompiledCausalLM,
    text: str | TokenIds,
    *,
    tokenizer: Any | None = None,
    ctx_len: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> PerplexityReport:
    """Perplexity of an open package; no request may run meanwhile.

    Args:
        compiled: the package.
        text: a text, or its token ids.
        tokenizer: a transformers tokenizer; default: the package's.
        ctx_len: maximum tokens of a window; None: all that the package has room for.
        stride: see :func:`measure`.
        max_tokens: see :func:`measure`.

    Raises:
        CapacityError: ``ctx_len`` is beyond the package's.
        LifecycleError: requests run on the package.
        OptionError, NumericError: see :func:`measure`.
    """
    room = compiled.record.ctx_len
    if ctx_len is not None and ctx_len > room:
        raise CapacityError(
            f"ctx_len={ctx_len}: the package was compiled for ctx_len={room}. Compile with a larger one."
        )
    check_lens(ctx_len or room, stride, max_tokens)
    ids = encode_one(text, lambda texts: compiled.encode_text(texts, tokenizer), compiled.record.vocab_size)
    with compiled.engine.exclusive() as session:
        scorer: Scorer = lambda ids, planned: session_scores(session, ids, planned)  # noqa: E731
        return measure(scorer, ids, ctx_len=ctx_len or room, stride=stride, max_tokens=max_tokens)


def encode_one(text: str | TokenIds, encode: Callable[[Any], list[list[int]]], vocab_size: int) -> list[int]:
    """The token ids of one text; ``encode`` takes prompts in any form.

    Raises:
        OptionError: the text is empty, there are several, or a token is not in the vocabulary.
    """
    if isinstance(text, str):
        check_not_empty(text)
    rows = encode(text)
    if len(rows) != 1:
        raise OptionError(f"Perplexity is of one text, got {len(rows)}.")
    if unknown := [token for token in rows[0] if not 0 <= token < vocab_size]:
        raise OptionError(f"The text has the token id {unknown[0]}, and the model's go from 0 to {vocab_size - 1}.")
    return rows[0]


def session_scores(session: Session, ids: Sequence[int], planned: Sequence[Window]) -> Iterator[float]:
    """A :data:`Scorer` over a session: windows run side by side, one in each slot."""
    info = session.info
    num_slots = 1 if info.is_ragged else info.num_slots
    pending = iter(planned)
    while together := list(islice(pending, num_slots)):
        runs = [_Run(slot, ids, window, info) for slot, window in enumerate(together)]
        while active := [run for run in runs if not run.is_done]:
            logits = session.step([run.chunk() for run in active])
            first = 0
            for run in active:
                first += run.take(logits[first:])
        yield from (run.nll for run in runs)


class _Run:
    """One window on its way through a slot."""

    def __init__(self, slot: int, ids: Sequence[int], window: Window, info: SessionInfo):
        self._slot = slot
        self._tokens = ids[window.begin : window.end]
        self._first_scored = window.first_scored - window.begin
        self._chunk_len = info.chunk_len
        self._most_logits = _most_logits(info)
        blocks_per_slot = (info.num_blocks or 0) // info.num_slots
        self._block_ids = range(slot * blocks_per_slot, (slot + 1) * blocks_per_slot)
        self._start = self._count = 0
        self.nll = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every scored token has been predicted; the last one is not fed."""
        return self._start + 1 >= len(self._tokens)

    def chunk(self) -> Chunk:
        """The tokens of the next step: a part of the context, or as many scored ones as a step gives logits of."""
        num_context = max(0, self._first_scored - 1 - self._start)
        num_left = num_context or min(self._most_logits, len(self._tokens) - 1 - self._start)
        self._count = min(self._chunk_len, num_left)
        tokens = self._tokens[self._start : self._start + self._count]
        num_logits = 0 if num_context else self._count
        length = len(self._tokens)
        return Chunk(self._slot, tokens, self._start, num_logits, block_ids=self._block_ids, prefill_len=length)

    def take(self, logits: np.ndarray) -> int:
        """Score with the first rows of ``logits`` ``[n, vocab]``; returns how many they are."""
        is_context = self._start < self._first_scored - 1
        targets = [] if is_context else self._tokens[self._start + 1 : self._start + 1 + self._count]
        self._start += self._count
        if targets:
            self.nll += negative_log_likelihood(logits[: len(targets)], targets)
        return len(targets)


def _most_logits(info: SessionInfo) -> int:
    """Rows of logits to ask one step for."""
    fitting = max(1, _LOGITS_BYTES // (4 * info.vocab_size))
    return min(info.max_num_logits or fitting, fitting)


def negative_log_likelihood(logits: np.ndarray, targets: Sequence[int]) -> float:
    """The sum over rows of logits ``[n, vocab]``, each with the token that follows; in nats."""
    rows = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        rows -= rows.max(axis=-1, keepdims=True)
        likelihoods = rows[np.arange(len(targets)), list(targets)] - np.log(np.exp(rows).sum(axis=-1))
    return -float(likelihoods.sum())
