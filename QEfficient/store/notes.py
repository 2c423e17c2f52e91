"""A cache of small JSON values, keyed by what they depend on. Losing one only costs time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from QEfficient.store.digests import digest
from QEfficient.store.files import home, make_private, new_file, write_atomic


def read_note(kind: str, ingredients: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value that :func:`write_note` stored for these ingredients; None where there is none or it is damaged."""
    try:
        value = json.loads(_path(kind, ingredients).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_note(kind: str, ingredients: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Store ``value``. Where it cannot be written, it is computed again the next time."""
    path = _path(kind, ingredients)
    with suppress(OSError):
        make_private(path.parent)
        write_atomic(path, json.dumps(value), temporary=new_file())


def _path(kind: str, ingredients: Mapping[str, Any]) -> Path:
    return home() / kind / f"{digest(ingredients)}.json"
