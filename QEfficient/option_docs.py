"""Docstrings of methods that list their options, as ``help()`` shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from textwrap import fill
from typing import Any, TypeVar

from QEfficient.options import Options

Function = TypeVar("Function", bound=Callable[..., Any])
_ENTRY = re.compile(r"^( *)options: see .*\n(?:\1 +.*\n)*", re.MULTILINE)


def lists_options(*kinds: type[Options]) -> Callable[[Function], Function]:
    """Put a line for each option into a docstring, in place of the entry ``options: see …``.

    Args:
        kinds: the classes of the options, in order.
    """

    def document(function: Function) -> Function:
        function.__doc__ = with_options(function.__doc__, *kinds)
        return function

    return document


def with_options(doc: str | None, *kinds: type[Options]) -> str | None:
    """A docstring with a line for each option in place of its entry ``options: see …``."""

    def listed(entry: re.Match[str]) -> str:
        indent = entry[1]
        docs = {item.name: kind.help(item.name) for kind in kinds for item in fields(kind)}
        lines = [
            fill(
                f"{name}: {' '.join(text.split())}",
                120,
                initial_indent=f"{indent}    ",
                subsequent_indent=f"{indent}        ",
                break_on_hyphens=False,
            )
            for name, text in docs.items()
        ]
        return "\n".join([f"{indent}options:", *lines, ""])

    return None if doc is None else _ENTRY.sub(listed, doc)
