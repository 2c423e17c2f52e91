"""Prompts, in the forms that people and programs give them."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from QEfficient.errors import OptionError


def read_prompts(prompt: str | list[str] | None, file: str | os.PathLike[str] | None) -> list[str]:
    """Prompts from a list, from one text split at ``|``, or from a file with one a line.

    Raises:
        OptionError: none is given, or both are.
    """
    if (prompt is None) == (file is None):
        raise OptionError("Give either a prompt or a file of prompts (one a line).")
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise OptionError(f"The file of prompts cannot be read: {error}") from error
        found = [line for line in text.splitlines() if line.strip()]
    else:
        found = list(prompt) if isinstance(prompt, list) else str(prompt).split("|")
    if not found:
        raise OptionError(f"{file} has no prompt in it.")
    return found


def encode_prompts(prompts: Any, tokenizer: Callable[[], Any]) -> list[list[int]]:
    """Token ids of one prompt or several.

    Args:
        prompts: text, token ids (in a list, an array or a tensor), a chat (a list of messages), several of these, or
            a tokenizer's output, whose padding is dropped.
        tokenizer: gives what encodes text and chats; called only if there are any.

    Raises:
        OptionError: it is none of these.
    """
    if isinstance(prompts, Mapping) or hasattr(prompts, "input_ids"):
        return _unpadded(prompts)
    return [_encode(prompt, tokenizer) for prompt in _listed(prompts)]


def _listed(prompts: Any) -> list[Any]:
    """``prompts`` as a list of prompts, also if it is one."""
    if prompts is None:
        return []
    if isinstance(prompts, str) or _is_chat(prompts):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise _no_prompt(prompts)
    found = list(prompts)
    return [found] if found and _token_ids(found) is not None else found


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
    """``prompt`` as whole numbers, or None if it does not hold such."""
    if isinstance(prompt, bytes):
        return None
    try:
        return [_whole_number(token) for token in prompt]
    except TypeError:
        return None


def _whole_number(token: Any) -> int:
    if getattr(token, "ndim", 0):  # a tensor of one element passes for its element
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


def _no_prompt(given: Any) -> OptionError:
    return OptionError(
        f"A {type(given).__name__} is no prompt: give text, a list of texts, lists of token ids, a tokenizer's output, "
        "or a chat (a list of messages with 'role' and 'content')."
    )
