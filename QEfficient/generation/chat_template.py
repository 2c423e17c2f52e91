"""Renders a checkpoint's chat template as transformers does, without transformers.

The template is the checkpoint's code: it runs in jinja2's sandbox, with nothing that reaches outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from QEfficient.errors import OptionError


def render_chat(template: str, messages: list[Mapping[str, Any]], special_tokens: Mapping[str, str]) -> str:
    """A conversation as the text that the model was trained on, ready for the assistant's turn.

    Raises:
        OptionError: the template is not valid, or refuses the conversation.
    """
    # Templates test whether a key exists and do not expect None.
    plain_messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        compiled = _environment().from_string(template)
        return compiled.render(
            messages=plain_messages, tools=None, documents=None, add_generation_prompt=True, **special_tokens
        )
    except jinja2.TemplateError as error:
        raise refusal(error) from error


def refusal(error: Exception) -> OptionError:
    """The error to raise for an error of a template."""
    return OptionError(f"The checkpoint's chat template refuses this conversation: {error}")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _PlainDict(),
        "namespace": _PlainNamespace,
    }
    return environment


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainDict:
    """``dict`` without the attributes of a class."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _PlainNamespace(Namespace):
    """jinja2's namespace, without names that are special in Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} is unsafe.")
        super().__setitem__(name, value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # The filter of jinja2 escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
