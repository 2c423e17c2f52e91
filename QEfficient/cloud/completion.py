"""What a shell offers for the values of arguments and flags; commands and flags are completed by click."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from QEfficient.targets import TARGETS

_OF_METAVARS = {"FILE": "file", "PATH": "file", "DIR": "dir"}


def paths_of(metavar: str | None) -> str | None:
    """What the shell itself completes for a flag with this metavar: "file", "dir" or nothing."""
    return _OF_METAVARS.get(metavar or "")


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders, for what may also be a model of the Hub."""
    return [CompletionItem(incomplete, type="file")]


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of targets."""
    return [CompletionItem(name) for name in sorted(TARGETS) if name.startswith(incomplete)]
