"""Generation configs: of checkpoints, read as if a stranger had written them, and of callers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

from QEfficient.errors import OptionError, QEffError, nearest
from QEfficient.generation_options import GenerationOptions


def _is_id(value: object) -> bool:
    return type(value) is int


def _are_ids(value: object) -> bool:
    return _is_id(value) or (isinstance(value, list) and all(map(_is_id, value)))


def _are_sequences(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(ids, list) and ids and _are_ids(ids) for ids in value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _is_pair(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple) and len(value) == 2


def _are_biases(value: object) -> bool:
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list):
        return False
    return all(_is_pair(pair) and isinstance(pair[0], list | tuple) and _is_number(pair[1]) for pair in pairs)


def _is_decay(value: object) -> bool:
    return _is_pair(value) and _is_id(value[0]) and _is_number(value[1])


_ID, _IDS = ("a token id", _is_id), ("a token id or a list of them", _are_ids)
_NUMBER, _BOOL = ("a number", _is_number), ("true or false", lambda value: isinstance(value, bool))
_COUNT = ("a whole number of at least 1", lambda value: _is_id(value) and value >= 1)
_COUNT_OR_NONE = ("a whole number, 0 or more", lambda value: _is_id(value) and value >= 0)
_LIST = ("a list of token ids", lambda value: isinstance(value, list) and _are_ids(value))
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "eos_token_id": _IDS,
    "pad_token_id": _IDS,
    "bos_token_id": _IDS,
    "decoder_start_token_id": _IDS,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _IDS,
    "max_new_tokens": _COUNT,
    "max_length": _COUNT,
    "min_new_tokens": _COUNT_OR_NONE,
    "min_length": _COUNT_OR_NONE,
    "no_repeat_ngram_size": _COUNT_OR_NONE,
    "encoder_no_repeat_ngram_size": _COUNT_OR_NONE,
    "suppress_tokens": _LIST,
    "begin_suppress_tokens": _LIST,
    "stop_strings": ("a text or a list of texts", _are_texts),
    "sequence_bias": ("a list of pairs [token ids, number]", _are_biases),
    "exponential_decay_length_penalty": ("a number of tokens and a factor", _is_decay),
    "encoder_repetition_penalty": _NUMBER,
    "typical_p": _NUMBER,
    "epsilon_cutoff": _NUMBER,
    "eta_cutoff": _NUMBER,
    "do_sample": _BOOL,
    "temperature": _NUMBER,
    "top_k": ("a whole number", _is_id),
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "repetition_penalty": _NUMBER,
    "bad_words_ids": ("a list of lists of token ids", _are_sequences),
}
"""Entries that generation follows: what each must be. None is always no entry."""


def check_generation_config(
    config: Mapping[str, Any], where: str, error: type[QEffError], vocab_size: int | None = None
) -> None:
    """
    Args:
        config: the file's content.
        where: its path, for the message.
        error: what to raise.
        vocab_size: of the model, if it is known.

    Raises:
        QEffError: an entry has a wrong type, or bans tokens that the model does not have, or all that it has; says
            which, and what was expected.
    """
    for name, (expected, holds) in _FIELDS.items():
        value = config.get(name)
        if value is not None and not holds(value):
            raise error(
                f"{where}: {name} must be {expected}, got {str(value)[:60]!r}. Correct it, or remove the entry."
            )
    if vocab_size is not None:
        _check_banned(config.get("bad_words_ids") or [], where, error, vocab_size)


def _check_banned(sequences: list[list[int]], where: str, error: type[QEffError], vocab_size: int) -> None:
    if unknown := [token for ids in sequences for token in ids if not 0 <= token < vocab_size]:
        raise error(
            f"{where}: bad_words_ids has the token id {unknown[0]}, and the model's go from 0 to {vocab_size - 1}. "
            "Correct it, or remove the entry."
        )
    if len({ids[0] for ids in sequences if len(ids) == 1}) == vocab_size:
        raise error(f"{where}: bad_words_ids bans all {vocab_size} tokens of the model. Remove the entry.")


_UNFOLLOWED: dict[str, Any] = {
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "num_beam_groups": 1,
    "num_beams": 1,
    "penalty_alpha": None,
    "token_healing": False,
    "top_h": None,
    "watermarking_config": None,
}
"""Entries that change answers in transformers and are not followed here, with the values that change nothing."""
_HARMLESS = frozenset(
    """
    assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind bos_token_id
    cache_config cache_implementation compile_config continuous_batching_config decoder_start_token_id disable_compile
    early_stopping is_assistant length_penalty low_memory max_cache_len max_matching_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule output_attentions output_hidden_states output_logits output_scores pad_token_id
    prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values renormalize_logits return_dict_in_generate
    speculation_type target_lookbehind transformers_version use_cache use_model_defaults
    """.split()  # noqa: SIM905  (one name a line would take a page)
)
"""Entries that do not change answers, or only with one of those above."""


def is_unfollowed(name: str) -> bool:
    """Whether an option of transformers' ``generate`` changes answers there, and is not followed here."""
    return name in _UNFOLLOWED


def entries_without_effect(generation_config: Mapping[str, Any]) -> list[str]:
    """Entries that change answers in transformers but are not followed, as ``name=value``."""
    unfollowed = {**_UNFOLLOWED, "num_return_sequences": 1}
    return [
        f"{name}={generation_config[name]!r}"
        for name, neutral in unfollowed.items()
        if generation_config.get(name) not in (None, neutral)
    ]


def refuse_unfollowed(options: dict[str, Any]) -> None:
    """Take out of a caller's options those of transformers that are not followed.

    Raises:
        OptionError: one would change answers.
    """
    for name in [name for name in options if name in _UNFOLLOWED]:
        value = options.pop(name)
        if value not in (None, _UNFOLLOWED[name]):
            raise OptionError(
                f"{name}={value!r}: generate() does not follow it. It decodes greedily or samples, one token at a "
                "time, from the logits of one model. Leave the option out."
            )


def options_of(config: object) -> dict[str, Any]:
    """The options that a generation config sets, by name.

    Args:
        config: transformers' ``GenerationConfig``, a dict, or the path of ``generation_config.json`` or of its folder.

    Raises:
        OptionError: it is none of these, cannot be read, or a dict has an unknown entry.
    """
    known = {field.name for field in fields(GenerationOptions)} | {*_UNFOLLOWED}
    entries = _entries(config)
    if isinstance(config, Mapping):
        for name in entries:
            if name not in known | _HARMLESS:
                raise OptionError(f"generation_config has the unknown entry '{name}'.{nearest(name, known)}")
    return {name: value for name, value in entries.items() if name in known and value is not None}


def _entries(config: object) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    to_dict = getattr(config, "to_dict", None)
    if callable(to_dict):
        entries: Mapping[str, Any] = to_dict()
        return entries
    if not isinstance(config, str | os.PathLike):
        raise OptionError(f"generation_config must be a GenerationConfig, a dict or a path, got {config!r}.")
    path = Path(config)
    path = path / "generation_config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"generation_config: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise OptionError(f"generation_config: {path} holds a {type(content).__name__}, expected an object.")
    return content
