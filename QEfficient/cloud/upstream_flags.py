"""Flags in upstream's forms: those of the card's compiler by their names, and a switch with a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import click

_TRUE, _FALSE = ("true", "1"), ("false", "0")


def in_our_form(command: click.Command, args: Sequence[str]) -> list[str]:
    """``args`` with ``--user-tiled`` as ``--compiler-option user-tiled=true``, and ``--verbose True`` as ``--verbose``.

    Args:
        command: only of one that has compiler options, flags of the compiler are taken.
        args: those of the command.
    """
    return [*_rewritten(command, list(args))]


def _rewritten(command: click.Command, args: list[str]) -> Iterator[str]:
    switches = {name for param in command.params if getattr(param, "is_flag", False) for name in param.opts}
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    while args:
        arg = args.pop(0)
        name, equals, text = arg.partition("=")
        flag = name.replace("_", "-")
        value = args[0] if args and not args[0].startswith("-") else None
        if flag.startswith("--") and flag not in known and flag in _raw_flags(command):
            if not equals and value is not None:
                text = args.pop(0)
            yield from ("--compiler-option", f"{flag.removeprefix('--')}={text or 'true'}")
        elif flag in switches and value is not None and value.lower() in (*_TRUE, *_FALSE):
            args.pop(0)
            if value.lower() in _TRUE:
                yield arg
        else:
            yield arg


def with_raw_flags(command: click.Command, error: click.NoSuchOption) -> click.NoSuchOption:
    """``error`` that suggests a flag of the card's compiler first, if one is near."""
    near = get_close_matches(error.option_name.replace("_", "-"), _raw_flags(command), n=1, cutoff=0.8)
    return click.NoSuchOption(error.option_name, possibilities=[*near, *(error.possibilities or [])], ctx=error.ctx)


def _raw_flags(command: click.Command) -> list[str]:
    if not any(param.name == "compiler_options" for param in command.params):
        return []
    from QEfficient.compile.qaic_compiler import raw_flag_names

    return ["--" + name.replace("_", "-") for name in raw_flag_names()]
