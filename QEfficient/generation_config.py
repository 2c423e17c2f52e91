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
}
"""Entries that generation follows: what each must be. None is always no entry."""


def check_generation_config(config: Mapping[str, Any], where: str, error: type[QEffError]) -> None:
    """
    Args:
        config: the file's content.
        where: its path, for the message.
        error: what to raise.

    Raises:
        QEffError: an entry has a wrong type; says which, and what was expected.
    """
    for name, (expected, holds) in _FIELDS.items():
        value = config.get(name)
        if value is not None and not holds(value):
            raise error(
                f"{where}: {name} must be {expected}, got {str(value)[:60]!r}. Correct it, or remove the entry."
            )
