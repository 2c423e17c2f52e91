"""Commands as functions: upstream's modules have a ``main`` with keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

Value = bool | float | str | Sequence[int] | Sequence[str] | None
"""A flag's value; None and False leave it out."""


def as_function(command: click.Command) -> Callable[..., None]:
    """A function that runs ``command``, with its flags as keywords."""

    def main(**keywords: Value) -> None:
        command.main([*_arguments(command, keywords)], standalone_mode=False)

    main.__doc__ = f"{command.help}\n\nKeywords are the command's flags."
    return main


def _arguments(command: click.Command, keywords: dict[str, Value]) -> Iterator[str]:
    switches = {flag for param in command.params if getattr(param, "is_flag", False) for flag in param.opts}
    for name, value in keywords.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True or flag in switches:
            if value:
                yield flag
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            for item in value:
                yield from (flag, str(item))
        else:
            yield from (flag, str(list(value)) if isinstance(value, list | tuple) else str(value))
