"""SDK versions."""

from __future__ import annotations

from QEfficient.errors import OptionError

DEFAULT_VERSION = "1.22.0.0"


def parse_version(text: str) -> tuple[int, ...]:
    """``"1.22.0.0"`` -> ``(1, 22, 0, 0)``.

    Raises:
        OptionError: not numbers with dots between.
    """
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise OptionError(f"The SDK version is {text!r}; expected numbers with dots between, as in {DEFAULT_VERSION}")
    return tuple(map(int, parts))
