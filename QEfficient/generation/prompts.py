"""Prompts in all accepted forms."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

from QEfficient.errors import OptionError


class Encoding(Protocol):
    """A tokenizer's output with attributes: ``input_ids``, and ``attention_mask`` if it is padded."""

    @property
    def input_ids(self) -> Iterable[Any]:
        """Token ids, one row per text or a single row."""
        ...


TokenIds = Iterable[SupportsIndex]
"""Token ids in a list, an array or a tensor."""
Chat = Sequence[Mapping[str, str]]
"""A list of messages with ``role`` and ``content``."""
Prompt = str | TokenIds | Chat
Prompts = Prompt | Iterable[Prompt] | Mapping[str, Any] | Encoding
"""One prompt, several, or a tokenizer's output, as a mapping or as an object with attributes."""


def read_prompts(prompt: str | list[str] | None, file: str | os.PathLike[str] | None) -> list[str]:
    """Prompts from a list, from one text split at ``|``, or from a file with one per line.

    Raises:
        OptionError: both or neither of the arguments are set.
    """
    if (prompt is None) == (file is None):
        raise OptionError("Give either a prompt or a file of prompts (one per line).")
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no path
            raise OptionError(f"The file of prompts cannot be read: {error}") from error
        prompts = [line for line in text.splitlines() if line.strip()]
    else:
        prompts = list(prompt) if isinstance(prompt, list) else str(prompt).split("|")
    if not prompts:
        raise OptionError(f"{file} has no prompt in it.")
    return prompts


def encode_prompts(prompts: Prompts, tokenizer: Callable[[], Any]) -> list[list[int]]:
    """Token ids of one prompt or several.

    Args:
        prompts: one or several; the padding of a tokenizer's output is dropped.
        tokenizer: returns the tokenizer; called only if there is text or a chat to encode.

    Raises:
        OptionError: ``prompts`` has another form.
    """
    if isinstance(prompts, Mapping) or hasattr(prompts, "input_ids"):
        return _unpadded(prompts)
    return [_encode(prompt, tokenizer) for prompt in _listed(prompts)]


def _listed(prompts: Any) -> list[Any]:
    """``prompts`` as a list of prompts; a single one becomes a list of one."""
    if prompts is None:
        return []
    if isinstance(prompts, str) or _is_chat(prompts):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise _no_prompt(prompts)
    items = list(prompts)
    return [items] if items and _token_ids(items) is not None else items


def _encode(prompt: Any, tokenizer: Callable[[], Any]) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer().encode(str(prompt))
    if _is_chat(prompt):
        return tokenizer().encode_chat(prompt)
    ids = _token_ids(prompt)
    if ids is None:
        raise _no_prompt(prompt)
    return ids


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], Mapping) and "role" in prompt[0]


def _token_ids(prompt: Any) -> list[int] | None:
    """``prompt`` as whole numbers, or None if it contains anything else."""
    if isinstance(prompt, bytes):
        return None
    try:
        return [_whole_number(token) for token in prompt]
    except TypeError:
        return None


def _whole_number(token: Any) -> int:
    if getattr(token, "ndim", 0):  # operator.index accepts a tensor of one element
        raise TypeError
    return operator.index(token)


def _unpadded(encoding: Any) -> list[list[int]]:
    if isinstance(encoding, Mapping):
        ids, masks = encoding.get("input_ids"), encoding.get("attention_mask")
    else:
        ids, masks = encoding.input_ids, getattr(encoding, "attention_mask", None)
    if ids is None:
        raise _no_prompt(encoding)
    rows = _rows(ids)
    if masks is None:
        return rows
    return [
        [token for token, keep in zip(row, mask, strict=True) if keep]
        for row, mask in zip(rows, _rows(masks), strict=True)
    ]


def _rows(values: Any) -> list[list[int]]:
    rows = [_token_ids(row) for row in _listed(values)]
    if None in rows:
        raise _no_prompt(values)
    return rows  # type: ignore[return-value]


def _no_prompt(value: object) -> OptionError:
    return OptionError(
        f"A {type(value).__name__} is no prompt: give text, a list of texts, lists of token ids, a tokenizer's output, "
        "or a chat (a list of messages with 'role' and 'content')."
    )
