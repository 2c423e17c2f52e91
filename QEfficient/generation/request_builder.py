"""Builds the engine's requests from a caller's options, which hold for all prompts or for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.media import NOTHING, PromptMedia
from QEfficient.generation.request import Request
from QEfficient.options import SamplingOptions

_ARGUMENTS = ("prompts", "tokenizer", "generation_len", "stream", "adapter")
"""Arguments of ``generate`` that are not sampling options."""
SamplingValue = bool | float | str | Sequence[bool | float | str | None] | np.ndarray | None
"""A sampling option of ``generate``, or the name of an adapter: one value for all prompts, or one per prompt."""


class RequestBuilder:
    """Makes requests with the defaults of a checkpoint's generation config.

    Args:
        generation_config: as in ``generation_config.json``.
        ctx_len: tokens that a slot holds.
    """

    def __init__(self, generation_config: Mapping[str, Any], ctx_len: int):
        self.generation_config, self.ctx_len = generation_config, ctx_len

    def build(
        self,
        prompt_ids: list[int],
        generation_len: int | None,
        sampling: Mapping[str, Any],
        inputs: Mapping[str, np.ndarray] | None = None,
        media: PromptMedia = NOTHING,
    ) -> Request:
        """One request.

        Args:
            prompt_ids: the tokens that the output continues.
            generation_len: maximum number of new tokens; None: the config's, else what fits.
            sampling: options by name; None is the default.
            inputs: inputs of the first step besides the tokens.
            media: the prompt's images, videos and audio.

        Raises:
            OptionError: an unknown or impossible option.
        """
        eos = self.generation_config.get("eos_token_id")
        eos_token_ids = frozenset([eos] if isinstance(eos, int) else eos or ())
        return Request(
            prompt_ids=prompt_ids,
            max_new_tokens=self._max_new_tokens(prompt_ids, generation_len),
            eos_token_ids=eos_token_ids,
            sampling=self._sampling(sampling),
            inputs=dict(inputs or {}),
            media=media,
            banned_ids=self._banned_ids(eos_token_ids),
        )

    def _banned_ids(self, eos_token_ids: frozenset[int]) -> tuple[tuple[int, ...], ...]:
        """As in transformers, an end token alone cannot be banned."""
        sequences = map(tuple, self.generation_config.get("bad_words_ids") or ())
        return tuple(ids for ids in sequences if len(ids) > 1 or ids[0] not in eos_token_ids)

    def _max_new_tokens(self, prompt_ids: list[int], generation_len: int | None) -> int:
        if generation_len is None:
            room = self.ctx_len - len(prompt_ids)
            return min(room, self.generation_config.get("max_new_tokens") or room)
        return checked_generation_len(generation_len)

    def _sampling(self, options: Mapping[str, Any]) -> SamplingOptions:
        """The caller's options, with the checkpoint's as defaults. The checkpoint does not decide whether to sample."""
        passed = {name: value for name, value in options.items() if value is not None}
        asked = SamplingOptions.parse(passed, beside=_ARGUMENTS)
        config = self.generation_config
        names = ("temperature", "top_k", "top_p", "min_p") if asked.samples else ()
        defaults = {name: config[name] for name in (*names, "repetition_penalty") if config.get(name) is not None}
        return SamplingOptions.parse({**defaults, **passed, "do_sample": asked.samples})


def for_each(name: str, value: object, count: int) -> list[Any]:
    """An option's value for each prompt: a list has one per prompt, any other value is for all.

    Raises:
        OptionError: a list of another length.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise OptionError(f"{name} has {len(value)} values for {count} prompts: give one value, or one for each.")
    return list(value)


def options_of_each(options: Mapping[str, Any], count: int) -> Sequence[dict[str, Any]]:
    """:func:`for_each` of several options: one dict for each prompt."""
    lists = {name: for_each(name, value, count) for name, value in options.items()}
    return [{name: values[index] for name, values in lists.items()} for index in range(count)]


def checked_generation_len(generation_len: object) -> int:
    """
    Raises:
        OptionError: it is no number of tokens.
    """
    if isinstance(generation_len, bool) or not isinstance(generation_len, Integral) or generation_len < 1:
        raise OptionError(f"generation_len must be a whole number of at least 1, got {generation_len!r}.")
    return int(generation_len)
