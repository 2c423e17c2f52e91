"""``generation_config.json``, read as if a stranger had written it: what generation follows has the right types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from QEfficient.errors import QEffError


def _is_id(value: object) -> bool:
    return type(value) is int


def _are_ids(value: object) -> bool:
    return _is_id(value) or (isinstance(value, list) and all(map(_is_id, value)))


def _are_sequences(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(ids, list) and ids and _are_ids(ids) for ids in value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_ID, _IDS = ("a token id", _is_id), ("a token id or a list of them", _are_ids)
_NUMBER, _BOOL = ("a number", _is_number), ("true or false", lambda value: isinstance(value, bool))
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "eos_token_id": _IDS,
    "pad_token_id": _IDS,
    "bos_token_id": _IDS,
    "decoder_start_token_id": _IDS,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _IDS,
    "max_new_tokens": ("a whole number of at least 1", lambda value: _is_id(value) and value >= 1),
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
