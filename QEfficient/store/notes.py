"""Small JSON values that are found out once and looked up by what they depend on. Losing one costs time alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from QEfficient.store.digests import digest
from QEfficient.store.files import home, make_private, new_sibling, write_atomic


def read_note(kind: str, ingredients: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`write_note` kept for these ingredients, or None; a damaged note is none."""
    try:
        value = json.loads(_path(kind, ingredients).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_note(kind: str, ingredients: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Keep ``value``. Where it cannot be written, it is found out again the next time."""
    path = _path(kind, ingredients)
    with suppress(OSError):
        make_private(path.parent)
        write_atomic(path, json.dumps(value), temporary=new_sibling(path, "new"))


def _path(kind: str, ingredients: Mapping[str, Any]) -> Path:
    return home() / kind / f"{digest(ingredients)}.json"
