"""What this machine has."""

from __future__ import annotations

import os

SLOW_TOKENIZERS = 'pip install "qefficient[slow-tokenizers]"'
"""The command that installs sentencepiece and sacremoses, which some tokenizers that run in Python need."""


def memory_bytes() -> int | None:
    """Bytes of memory, used or not; None where the system does not say."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
