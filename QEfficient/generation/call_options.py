"""The keyword arguments of one call of ``generate``, sorted: for each prompt, for the answers, or for the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.logits.callables import UserCriterion, UserProcessor, as_asked, listed
from QEfficient.generation.logits.processor import Processor
from QEfficient.generation.request import Request
from QEfficient.generation.stopping import StopRule, StopStrings, TokenBytes, check_stop_strings
from QEfficient.generation_config import options_of, refuse_unfollowed
from QEfficient.generation_options import GenerationOptions, Streamer
from QEfficient.options import TRUNCATION


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The options of one call."""

    generation_len: object
    """For all prompts, or for each."""
    for_prompts: dict[str, object]
    """Options by name; each one value, or one for each prompt."""
    num_answers: int = 1
    """To each prompt."""
    processors: tuple[Processor, ...] = ()
    stops: tuple[StopRule, ...] = ()
    streamer: Streamer | None = None

    @classmethod
    def read(cls, generation_len: object, options: Mapping[str, object]) -> CallOptions:
        """
        Args:
            generation_len: the argument of this name.
            options: the keyword arguments of a caller.

        Raises:
            OptionError: an option is not followed, or contradicts another.
        """
        passed: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        functions = {name: listed(name, passed.pop(name, None)) for name in ("logits_processor", "stopping_criteria")}
        passed = _with_config(passed.pop("generation_config", None), passed, has_len=generation_len is not None)
        refuse_unfollowed(passed)
        streamer, count = passed.pop("streamer", None), passed.pop("num_return_sequences", 1)
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise OptionError(f"streamer must have put() and end(), as transformers' streamers have, got {streamer!r}.")
        GenerationOptions.parse({"num_return_sequences": count})
        return cls(
            generation_len=_generation_len(generation_len, passed.pop("max_new_tokens", None)),
            for_prompts=passed,
            num_answers=int(count),
            processors=tuple(UserProcessor(function) for function in functions["logits_processor"]),
            stops=tuple(UserCriterion(function) for function in functions["stopping_criteria"]),
            streamer=streamer,
        )

    def applied(self, requests: Sequence[Request], token_bytes: Callable[[], TokenBytes] | None) -> list[Request]:
        """Requests for all answers, with what is said of the call.

        Args:
            requests: one for each prompt.
            token_bytes: what tokens add to a text; None where there is no tokenizer.

        Raises:
            OptionError: more answers than one are asked for without sampling, or there are texts to stop at and no
                tokenizer; a streamer for more than one answer.
        """
        if self.num_answers > 1 and not all(request.sampling.samples for request in requests):
            raise OptionError(
                f"num_return_sequences={self.num_answers}: without sampling all answers are equal. Set do_sample=True."
            )
        shared = None if token_bytes is None else cache(token_bytes)
        answers = [self._applied(each, shared) for each in requests]
        if self.streamer is not None and len(answers) * self.num_answers != 1:
            raise OptionError(f"streamer takes one answer, and {len(answers) * self.num_answers} are asked for.")
        return [replace(request, draw=draw) for request in answers for draw in range(self.num_answers)]

    def _applied(self, request: Request, token_bytes: Callable[[], TokenBytes] | None) -> Request:
        texts = request.sampling.stop_strings or ()
        check_stop_strings(texts, token_bytes is not None)
        stops = self.stops
        if texts and token_bytes is not None:
            stops = (StopStrings(texts, token_bytes()), *stops)
        if not stops and not self.processors:
            return request
        return replace(request, stops=stops, rules=(*request.rules, *self.processors))

    @contextmanager
    def streaming(self, request: Request) -> Iterator[None]:
        """Give the streamer the prompt, and tell it when nothing comes any more."""
        if self.streamer is None:
            yield
            return
        try:
            self._put([request.prompt_ids])
            yield
        finally:
            self.streamer.end()

    def add(self, token_id: int) -> None:
        """Give the streamer a token."""
        if self.streamer is not None:
            self._put([token_id])

    def _put(self, ids: list[Any]) -> None:
        assert self.streamer is not None
        self.streamer.put(as_asked(np.array(ids, np.int64), self.streamer))


def _with_config(config: object, passed: dict[str, Any], *, has_len: bool) -> dict[str, Any]:
    """A caller's options over those of the generation config that is passed with them."""
    if config is None:
        return passed
    entries = options_of(config)
    if has_len:
        entries.pop("max_new_tokens", None)
    # A config says in so many words that it samples; a caller says it by what is for sampling alone.
    entries["do_sample"] = entries.get("do_sample") is True or any(name in passed for name in TRUNCATION)
    return {**entries, **passed}


def _generation_len(generation_len: Any, max_new_tokens: Any) -> object:
    are_both = generation_len is not None and max_new_tokens is not None
    if are_both and not np.array_equal(generation_len, max_new_tokens):
        raise OptionError(
            f"generation_len={generation_len!r} and max_new_tokens={max_new_tokens!r} are the same option: give one."
        )
    return max_new_tokens if generation_len is None else generation_len
