"""The helpers of ``QEfficient.utils`` under the path where upstream defines them."""

from QEfficient.compat.upstream import utils

__all__ = [*utils.__all__]


def __getattr__(name: str) -> object:
    return getattr(utils, name)
