"""Where the store is, under upstream's path."""

from __future__ import annotations

__all__ = ["QEFF_HOME"]

QEFF_HOME: str
"""QEFF_HOME of the environment, else in the user's cache folder."""


def __getattr__(name: str) -> object:
    if name != "QEFF_HOME":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from QEfficient.store.artifacts import home  # asked now, so that a change of the environment counts

    return home()
