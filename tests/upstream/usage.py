"""A usage of upstream's library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """One row."""

    name: str
    code: str
    """As in a script of upstream's users."""
    check: str = ""
    """What must hold afterwards."""
    answer: str = ""
    """What the error says that the usage gets, as a pattern; empty: it works."""
    says: str = ""
    """What is logged about it, as a pattern."""
    note: str = ""
    """What is different here, for the documentation."""


def works(name: str, code: str, check: str = "", says: str = "", note: str = "") -> Usage:
    """A usage that needs no change."""
    return Usage(name, code, check, says=says, note=note)


def answers(name: str, code: str, answer: str) -> Usage:
    """A usage whose error says what to use."""
    return Usage(name, code, answer=answer)
