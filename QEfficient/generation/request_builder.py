"""Builds the engine's requests from a caller's options, which hold for all prompts or for each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.media import NOTHING, PromptMedia
from QEfficient.generation.request import Request
from QEfficient.generation.sessions.readers import TEXT
from QEfficient.generation_options import CallArguments, GenerationOptions, is_for_each
from QEfficient.options import TRUNCATION

logger = logging.getLogger(__name__)

_ARGUMENTS = (
    *("prompts", "tokenizer", "generation_len", "stream"),
    *(item.name for item in fields(CallArguments)),
)
"""Arguments of ``generate`` that are not options of an answer."""
_FOR_ALL_DECODING = (
    *("max_new_tokens", "max_length", "min_new_tokens", "min_length", "eos_token_id", "stop_strings"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "repetition_penalty", "encoder_repetition_penalty"),
)
"""Entries of a checkpoint's generation config that are defaults, whether tokens are drawn or not."""


class RequestBuilder:
    """Makes requests with the defaults of a checkpoint's generation config.

    Args:
        generation_config: as in ``generation_config.json``.
        ctx_len: tokens that a slot holds.
        vocab_size: of the model; None: token ids are not checked.
        left_out: entries of the config that the task follows by itself.
    """

    def __init__(
        self,
        generation_config: Mapping[str, Any],
        ctx_len: int,
        vocab_size: int | None = None,
        left_out: Sequence[str] = (),
    ):
        self.generation_config, self.ctx_len, self.vocab_size = generation_config, ctx_len, vocab_size
        self._names = [name for name in _FOR_ALL_DECODING if name not in left_out]
        self.arguments: Sequence[str] = ()
        """More arguments of a task's ``generate``, for suggestions on a misspelt name."""

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
            CapacityError: the prompt is as long as ``max_length``.
        """
        options = self._options(sampling)
        self._check_tokens(options)
        source = prompt_ids if not inputs else inputs[TEXT].tolist() if TEXT in inputs else None
        self._check_uses(sampling, options, reads_tokens=source is not None)
        return Request(
            prompt_ids=prompt_ids,
            max_new_tokens=self._max_new_tokens(prompt_ids, generation_len, options, sampling),
            eos_token_ids=frozenset(token for token in options.eos_token_id or () if token >= 0),
            sampling=options,
            inputs=dict(inputs or {}),
            media=media,
            source_ids=None if source is None else tuple(source),
        )

    def _max_new_tokens(
        self, prompt_ids: list[int], generation_len: int | None, options: GenerationOptions, passed: Mapping[str, Any]
    ) -> int:
        if generation_len is not None:
            if passed.get("max_length") is not None:
                _say_which_length(checked_generation_len(generation_len), options.max_length)
            return checked_generation_len(generation_len)
        room = self.ctx_len - len(prompt_ids)
        if options.max_new_tokens is not None:
            if passed.get("max_length") is not None:
                _say_which_length(options.max_new_tokens, options.max_length)
            return min(room, options.max_new_tokens)
        if options.max_length is None:
            return room
        if options.max_length <= len(prompt_ids):
            raise CapacityError(
                f"A prompt has {len(prompt_ids)} tokens, and max_length={options.max_length} are those of prompt and "
                "answer together. Give max_new_tokens, or a greater max_length."
            )
        return min(room, options.max_length - len(prompt_ids))

    def _options(self, options: Mapping[str, Any]) -> GenerationOptions:
        """The caller's options, with the checkpoint's as defaults. The checkpoint does not decide whether to sample."""
        passed = {name: value for name, value in options.items() if value is not None}
        asked = GenerationOptions.parse(passed, beside=(*_ARGUMENTS, *self.arguments))
        names = (*self._names, *(TRUNCATION if asked.samples else ()))
        config = self.generation_config
        defaults = {name: config[name] for name in names if config.get(name) is not None}
        return GenerationOptions.parse({**defaults, **passed, "do_sample": asked.samples})

    def _check_tokens(self, options: GenerationOptions) -> None:
        """
        Raises:
            OptionError: an option names a token that the model does not have.
        """
        if self.vocab_size is None:
            return
        named = {
            "bad_words_ids": [token for ids in options.bad_words_ids or () for token in ids],
            "sequence_bias": [token for ids, _ in options.sequence_bias or () for token in ids],
            "logit_bias": [token for token, _ in options.logit_bias or ()],
            "forced_bos_token_id": [] if options.forced_bos_token_id is None else [options.forced_bos_token_id],
            "forced_eos_token_id": options.forced_eos_token_id or (),
        }
        for name, tokens in named.items():
            if unknown := [token for token in tokens if not 0 <= token < self.vocab_size]:
                raise OptionError(
                    f"{name} has the token id {unknown[0]}, and the model's go from 0 to {self.vocab_size - 1}."
                )

    def _check_uses(self, passed: Mapping[str, Any], options: GenerationOptions, *, reads_tokens: bool) -> None:
        """
        Raises:
            OptionError: the caller's options contradict each other, or the model has nothing that one is about.
        """
        if not reads_tokens:
            for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"):
                if passed.get(name) not in (None, 0, 1.0):
                    raise OptionError(f"{name}: the model's encoder reads no tokens. Leave the option out.")
        if passed.get("exponential_decay_length_penalty") is not None and not options.eos_token_id:
            raise OptionError(
                "exponential_decay_length_penalty makes end tokens likelier, and there are none: give eos_token_id."
            )
        suppressed = {*(options.suppress_tokens or ())}
        bos, eos = options.forced_bos_token_id, options.forced_eos_token_id
        for name, ids in (("forced_bos_token_id", () if bos is None else (bos,)), ("forced_eos_token_id", eos)):
            if ids and suppressed.issuperset(ids):
                raise OptionError(f"{name}: each of its tokens {sorted(ids)} is in suppress_tokens too.")


def _say_which_length(max_new_tokens: int, max_length: int | None) -> None:
    logger.warning(
        "max_new_tokens=%s takes precedence over max_length=%s, as in transformers: give one of them.",
        max_new_tokens,
        max_length,
    )


def for_each(name: str, value: object, count: int) -> list[Any]:
    """An option's value for each prompt: a list that is no value itself has one per prompt.

    Raises:
        OptionError: a list of another length.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not is_for_each(name, value):
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
