"""Prompts in all accepted forms."""

from __future__ import annotations

import codecs
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
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

    Args:
        prompt: one text or several.
        file: UTF-8, or UTF-16 with a byte order mark. A line ends at ``\\n`` or ``\\r\\n``, at no other character;
            lines without text are left out.

    Raises:
        OptionError: both or neither of the arguments are set, or the file cannot be read.
    """
    if (prompt is None) == (file is None):
        raise OptionError("Give either a prompt or a file of prompts (one per line).")
    if file is not None:
        lines = (line.removesuffix("\r") for line in read_text(file, "The file of prompts").split("\n"))
        prompts = [line for line in lines if line.strip()]
    else:
        prompts = list(prompt) if isinstance(prompt, list) else str(prompt).split("|")
    if not prompts:
        raise OptionError(f"The file of prompts {file} has no prompt." if file is not None else "There is no prompt.")
    return prompts


def choose_prompts(
    first: object,
    second: object,
    prompts: object,
    tokenizer: object,
    file: str | os.PathLike[str] | None,
) -> tuple[Any, Any]:
    """Prompts and tokenizer of a call: ``(prompts)``, ``(prompts=...)``, ``(tokenizer, prompts)`` or ``(tokenizer,
    prompts=...)``.

    Args:
        first: the first argument by position.
        second: the second.
        prompts: the argument of this name.
        tokenizer: the argument of this name.
        file: a file with one prompt per line, in place of prompts.

    Raises:
        OptionError: there are prompts twice.
    """
    is_tokenizer = callable(first) and hasattr(first, "decode")
    if second is not None or is_tokenizer:
        tokenizer, first = first, second
    choices = [each for each in (first, prompts) if each is not None]
    if file is not None:
        choices.append(read_prompts(None, file))
    if len(choices) > 1:
        raise OptionError("Prompts are there twice: give them once, by position, by name or as a file.")
    return (choices[0] if choices else None), tokenizer


_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(file: str | os.PathLike[str], what: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        file: its path.
        what: its name for messages: "The file of prompts".

    Raises:
        OptionError: it cannot be read, or holds something else.
    """
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no path
        raise OptionError(f"{what} cannot be read: {error}") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except ValueError as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise _no_text(file, what, f"line {line} is not {encoding.removesuffix('-sig').upper()} ({error})") from error
    if "\0" in text:
        raise _no_text(file, what, f"line {text[: text.index(chr(0))].count(chr(10)) + 1} has a zero character")
    return text


def _no_text(file: str | os.PathLike[str], what: str, why: str) -> OptionError:
    return OptionError(f"{what} {file} cannot be read: {why}. Save it as UTF-8, or as UTF-16 with a byte order mark.")


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
    if isinstance(prompts, _NO_LISTS) or not isinstance(prompts, Iterable) or _is_scalar(prompts):
        raise _no_prompt(prompts)
    items = list(prompts)
    return [items] if items and _token_ids(items) is not None else items


def _encode(prompt: Any, tokenizer: Callable[[], Any]) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer().encode(checked_text(prompt))
    if _is_chat(prompt):
        _check_chat(prompt)
        return tokenizer().encode_chat(prompt)
    ids = _token_ids(prompt)
    if ids is None:
        raise _no_prompt(prompt)
    return ids


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], Mapping) and "role" in prompt[0]


def are_chats(prompts: object) -> list[bool]:
    """Whether each of several prompts is a chat; empty where none is."""
    if _is_chat(prompts):
        return [True]
    chats = [_is_chat(prompt) for prompt in prompts] if isinstance(prompts, list | tuple) else []
    return chats if any(chats) else []


def _check_chat(messages: Sequence[Any]) -> None:
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise OptionError(
                f"A chat is a list of messages, each a dict with the texts 'role' and 'content'; one is {message!r}."
            )
        if "content" not in message and "tool_calls" not in message:
            keys = ", ".join(repr(key) for key in message if key != "role") or "nothing"
            raise OptionError(f"A message of the chat has no 'content': beside its role it has {keys}.")
        for value in message.values():
            if isinstance(value, str):
                checked_text(value)


def checked_text(text: str) -> str:
    """``text``, which a tokenizer can take.

    Raises:
        OptionError: it is not valid Unicode.
    """
    if not isinstance(text, str):
        raise OptionError(f"A text was expected, got a {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"A prompt is not valid Unicode: character {error.start} ({text[error.start]!r}) is half of a pair."
        ) from error
    return str(text)


_NO_LISTS = (bytes, bytearray, memoryview, AbstractSet, Mapping)
"""What can be iterated over and is no list of prompts or tokens: bytes are no ids, and a set has no order."""


def token_ids(values: object, what: str) -> list[int]:
    """The token ids of one sequence.

    Args:
        values: a list, or an array or tensor with one axis.
        what: their name for the message.

    Raises:
        OptionError: they have another form.
    """
    ids = _token_ids(values)
    if ids is None:
        raise OptionError(f"{what} must be a list of token ids, whole numbers, got {repr(values)[:80]}.")
    return ids


def _token_ids(prompt: Any) -> list[int] | None:
    """``prompt`` as whole numbers, or None if it contains anything else."""
    if isinstance(prompt, _NO_LISTS) or _is_scalar(prompt):
        return None
    try:
        return [_whole_number(token) for token in prompt]
    except TypeError:
        return None


def _is_scalar(value: object) -> bool:
    """Whether ``value`` is an array or a tensor without axes."""
    return getattr(value, "ndim", None) == 0


def _whole_number(token: Any) -> int:
    if isinstance(token, bool) or str(getattr(token, "dtype", "")).endswith("bool") or getattr(token, "ndim", 0) != 0:
        raise TypeError  # operator.index accepts these: a bool, and a tensor of one element
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
    kept = _rows(_numbers(masks))
    if [len(row) for row in rows] != [len(mask) for mask in kept]:
        raise OptionError(
            f"input_ids and attention_mask differ in shape: rows of {_lens(rows)} tokens and of {_lens(kept)}."
        )
    return [[token for token, keep in zip(*pair, strict=True) if keep] for pair in zip(rows, kept, strict=True)]


def _numbers(masks: Any) -> Any:
    """A mask with 0 and 1 where it has False and True."""
    if isinstance(masks, list | tuple):
        return [_numbers(mask) for mask in masks]
    if isinstance(masks, bool) or str(getattr(masks, "dtype", "")).endswith("bool"):
        return masks * 1
    return masks


def _lens(rows: list[list[int]]) -> str:
    return ", ".join(str(len(row)) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")


def _rows(values: Any) -> list[list[int]]:
    rows = [_token_ids(row) for row in _listed(values)]
    if None in rows:
        raise _no_prompt(values)
    return rows  # type: ignore[return-value]


def _no_prompt(value: object) -> OptionError:
    return OptionError(
        "A prompt must be text, a list of texts, lists of token ids, a tokenizer's output, or a chat (a list of "
        f"messages with 'role' and 'content'), got {type(value).__name__}."
    )
