"""Text for a stream whose encoding may not have all of its characters, and warnings where no logging is set up."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


def can_encode(text: str, stream: TextIO) -> bool:
    """Whether the stream's encoding has every character of ``text``."""
    try:
        text.encode(_rules(stream)[0])
    except UnicodeEncodeError:
        return False
    return True


def encodable(text: str, stream: TextIO) -> str:
    """``text`` as the stream can take it: what its encoding does not have is escaped, as Python does on stderr.

    A stream that is opened with another rule for such characters keeps it.
    """
    encoding, errors = _rules(stream)
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _rules(stream: TextIO) -> tuple[str, str]:
    """Its encoding, and what it does with other characters."""
    stream = getattr(stream, "rich_proxied_file", stream)  # where a progress display stands in for it
    # A stream in memory has no encoding, and takes all but half of a pair.
    return getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", None) or "strict"


class _NamedWarnings(logging.Handler):
    """Shows warnings with the library's name, as long as no other handler does."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(f"QEfficient: {encodable(record.getMessage(), sys.stderr)}", file=sys.stderr)


def name_warnings() -> None:
    """Put the library's name before its warnings in a program that sets no logging up; Python shows the bare text."""
    logger = logging.getLogger("QEfficient")
    if not logger.handlers:
        logger.addHandler(_NamedWarnings(logging.WARNING))
