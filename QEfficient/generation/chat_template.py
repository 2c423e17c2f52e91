"""A conversation as text, by the checkpoint's chat template: as transformers renders it, without transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.template_process import PROCESS, RenderError

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message's reasoning, the first the one that templates read; gpt-oss's reads the second."""
_MAX_TEXT, _MAX_GROWTH = 1_000_000, 4
"""Characters that a template may add to a conversation, and times that it may repeat it."""
_SCALARS: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
"""How the value of a subclass is read, which may print as something else."""


def render_chat(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], source: str) -> str:
    """A conversation as the text that the model was trained on, ready for the assistant's turn.

    The template runs in a separate process, with at most 2 s of the processor and 64 MiB.

    Args:
        template: jinja2.
        messages: each with ``role`` and ``content``.
        variables: what else it may read: the special tokens by name, and ``tools`` and ``documents`` if there are any.
        source: where the template is from, for errors.

    Raises:
        OptionError: the template is not valid, refuses the conversation, fails on it, or takes too much time or memory.
    """
    try:
        plain = [_with_reasoning(_plain(_without_none(message))) for message in messages]
        common = {"tools": None, "documents": None, "add_generation_prompt": True}
        return PROCESS.render(template, {**common, **_plain(variables), "messages": plain})
    except RenderError as error:
        where = source if error.line is None else f"{source}, line {error.line},"
        if error.is_refusal:
            raise OptionError(f"The chat template {where} refuses this conversation: {_printable(error)}") from error
        raise OptionError(
            f"The chat template {where} cannot render this conversation: {_printable(error)}. Correct the template, or "
            "give the prompt as text."
        ) from error
    except (RecursionError, ValueError) as error:  # ValueError: of marshal, for what is nested deeply
        raise OptionError(f"The chat template {source} cannot take these messages: {error}.") from error


def checked_length(text: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a conversation, for a tokenizer: of what is out of proportion, it would take seconds and gigabytes.

    Raises:
        OptionError: it is much longer than the messages.
    """
    if len(text) > _MAX_TEXT and len(text) > _MAX_TEXT + _MAX_GROWTH * len(repr(messages)):
        raise OptionError(
            f"The chat template makes {len(text):,} characters of these messages, more than {_MAX_TEXT:,} and "
            f"{_MAX_GROWTH} times their own. Correct the template, or give the prompt as text."
        )
    return text


def _printable(error: RenderError) -> str:
    """Its text, which the template may have chosen, without what a terminal takes for commands."""
    return "".join(letter if letter.isprintable() else " " for letter in str(error)).rstrip(".")


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    # Templates test whether a key exists and do not expect None.
    return {key: value for key, value in message.items() if value is not None}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """``value`` as JSON's types and tuples. Of an image, templates ask only whether it is there: its type will do."""
    if value is None or isinstance(value, bool):
        return value
    for scalar, to_scalar in _SCALARS.items():
        if isinstance(value, scalar):
            return to_scalar(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # pydantic
        return _plain(value.model_dump())
    return f"<{type(value).__name__}>"
