"""What is said of settings that are accepted and change nothing."""

from __future__ import annotations

from collections.abc import Mapping


def remarks_of(ignored: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the names that it is about.

    Args:
        ignored: name -> why it has no effect.
    """
    named = [
        (", ".join(name for name in ignored if ignored[name] == why), why) for why in dict.fromkeys(ignored.values())
    ]
    return [f"{names}: no effect, {why}." for names, why in named]
