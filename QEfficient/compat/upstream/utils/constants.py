"""Upstream's constants that scripts read."""

from __future__ import annotations

from QEfficient.compat.moved import names_of

__all__ = ["QEFF_MODELS_DIR", "Constants"]

QEFF_MODELS_DIR: str
"""Where the store is: QEFF_HOME, else in the user's cache folder."""


class Constants:
    """What upstream's tests and examples run with."""

    GB = 2**30
    CTX_LEN = 32
    PROMPT_LEN = 8
    INPUT_STR = ("My name is",)
    CACHE_DIR = None


def __getattr__(name: str) -> object:
    if name == "QEFF_MODELS_DIR":  # read now, so that a change of the environment counts
        from QEfficient.store.artifacts import home

        return str(home())
    return names_of(__name__)(name)
