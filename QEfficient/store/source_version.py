"""Which version of this library made an artifact: its number, and the text of the modules that decide results."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from QEfficient.version import __version__

_DECISIVE = ("transformers", "exporter", "compile", "simulator")


@cache
def source_version() -> str:
    """``version+digest``; the digest changes with any line of the stages, so that a source checkout never
    reuses an artifact of an earlier state of the code."""
    root = Path(__file__).parents[1]
    content = hashlib.sha256()
    for path in sorted(path for stage in _DECISIVE for path in (root / stage).rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode())
        content.update(path.read_bytes())
    return f"{__version__}+{content.hexdigest()[:16]}"
