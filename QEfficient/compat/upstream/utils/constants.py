"""Upstream's constants that scripts read."""

from __future__ import annotations

from QEfficient.compat.moved import names_of

__all__ = ["DEFAULT_AIC_HW_VERSION", "DEFAULT_AIC_NUM_CORES", "QEFF_MODELS_DIR", "Constants"]

DEFAULT_AIC_NUM_CORES = 16
DEFAULT_AIC_HW_VERSION: str
"""The chip of the card in this machine, else "ai100"."""
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
    """What depends on the machine, asked now, so that a change of the environment counts."""
    if name == "QEFF_MODELS_DIR":
        from QEfficient.store.artifacts import home

        return str(home())
    if name == "DEFAULT_AIC_HW_VERSION":
        from QEfficient.compile.qaic_sdk import QaicSDK

        sdk = QaicSDK.find()
        return "ai100" if sdk is None else sdk.hw_version()
    return names_of("QEfficient.utils.constants")(name)
