"""Names by content: the digest of a set of ingredients, and of a file.

Equal values have equal digests: dicts in any order, tuples and lists, ``1`` and ``1.0``, an enum member and its value.
Names and locations do not take part, so paths are refused.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Any

from QEfficient.errors import ArtifactError
from QEfficient.store.files import home, new_file

# A write within the clock tick of the one before leaves no trace in the file's times.
_TICK_NS = 20_000_000
_WHOLE_SECOND_TICK_NS = 2_000_000_000


def canonical(value: object) -> Any:
    """The one JSON form of ``value``; ``canonical(canonical(x)) == canonical(x)``.

    A dataclass keeps its class name under ``$type``: two classes with equal fields differ. Numbers that JSON does not
    have are ``{"$float": "inf"}`` and the like.

    Raises:
        TypeError: Part of it has no canonical form (a path, an arbitrary object); says where.
        ValueError: Two keys of a dict are spelt the same.
    """
    return _canonical(value, "")


def _canonical(value: object, where: str) -> Any:
    if isinstance(value, enum.Enum):
        return _canonical(value.value, where)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return _canonical_float(value)
    if isinstance(value, Mapping):
        return _canonical_mapping(value, where)
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, AbstractSet):
        by_spelling = {_dumps(item): item for item in (_canonical(item, f"{where}{{}}") for item in value)}
        return [item for _, item in sorted(by_spelling.items())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"$type": type(value).__name__, **_canonical_mapping(content, where)}
    raise TypeError(_refusal(value, where))


def _canonical_float(value: float) -> Any:
    if not math.isfinite(value):
        return {"$float": str(value)}
    return int(value) if value.is_integer() else float(value)


def _canonical_mapping(value: Mapping[Any, object], where: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = _canonical(key, where)
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(f"The key {key!r} of {where or 'the ingredients'} is neither a string nor a whole number")
        name = str(name)
        if name in plain:
            raise ValueError(f"Two keys of {where or 'the ingredients'} are spelt {name!r}")
        plain[name] = _canonical(item, f"{where}.{name}" if where else name)
    return plain


def _refusal(value: object, where: str) -> str:
    where = where or "The value"
    if isinstance(value, os.PathLike):
        return f"{where} is a path ({value}), and a path is not content: give file_digest(path)"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return f"{where} is a {kind}, which has no canonical form: give its name, its to_dict() or a digest of it"


def _dumps(plain: object) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(ingredients: object) -> str:
    """sha256, in hex, of the canonical form."""
    return hashlib.sha256(_dumps(canonical(ingredients)).encode()).hexdigest()


def file_digest(path: str | os.PathLike[str], *, fresh: bool = False) -> str:
    """sha256, in hex, of a file's content.

    The digest is cached under :func:`home` with the file's real path, size, times and inode, so that an unchanged file
    is not read again.

    Args:
        path: The file; links are followed.
        fresh: Read the file even if its digest is cached. Detects damage that leaves size and times unchanged.

    Raises:
        ArtifactError: The file does not stop changing.
        OSError: It cannot be read.
    """
    real = os.path.realpath(path)
    if not fresh and (known := recall(real)) is not None:
        return known[0]
    sha256, seen = hash_file(real)
    remember(real, sha256, seen)
    return sha256


def hash_file(path: str | os.PathLike[str]) -> tuple[str, os.stat_result]:
    """Read a file; returns its sha256 and the stat for which this digest holds."""
    for _ in range(3):
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            _let_tick_pass(before)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if _identity(os.fstat(file.fileno())) == _identity(before):
                return sha256, before
    raise ArtifactError(f"{path} changed three times while it was being read. Try again when nothing writes to it.")


def settled_stat(path: str | os.PathLike[str]) -> os.stat_result:
    """A file's stat, taken when a later write would show in it."""
    status = os.stat(path)
    _let_tick_pass(status)
    return status


def remember(path: str | os.PathLike[str], sha256: str, seen: os.stat_result) -> None:
    """Cache a digest for :func:`file_digest`. Failing to write the note is not an error."""
    real = os.path.realpath(path)
    note = _note(real, seen)
    with suppress(OSError):
        temporary = new_file()
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            note_text = _dumps({"path": real, "sha256": sha256, **_identity(seen)})
            temporary.write_text(note_text, encoding="ascii")
            os.replace(temporary, note)
        finally:
            temporary.unlink(missing_ok=True)


def forget_missing() -> int:
    """Delete the notes about files that no longer exist; returns how many."""
    num_forgotten = 0
    for note in _notes():
        path = _read_note(note).get("path")
        if not isinstance(path, str) or not os.path.exists(path):
            with suppress(OSError):
                note.unlink()
                num_forgotten += 1
    return num_forgotten


def recall(path: str | os.PathLike[str]) -> tuple[str, os.stat_result] | None:
    """The cached digest of an unchanged file, with the stat for which it holds; None if the file changed."""
    real = os.path.realpath(path)
    status = os.stat(real)
    note = _read_note(_note(real, status))
    sha256, noted_path = note.pop("sha256", None), note.pop("path", None)
    if note != _identity(status) or not is_sha256(sha256) or (noted_path != real and status.st_nlink < 2):
        return None
    return sha256, status


def is_sha256(value: object) -> bool:
    """Whether ``value`` looks like what :func:`digest` returns."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _identity(status: os.stat_result) -> dict[str, int]:
    # No device number: network and container filesystems get a new one with every mount.
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _let_tick_pass(status: os.stat_result) -> None:
    tick = _TICK_NS if status.st_ctime_ns % 1_000_000_000 else _WHOLE_SECOND_TICK_NS
    remaining = status.st_ctime_ns + tick - time.time_ns()
    if 0 < remaining <= tick:
        time.sleep(remaining / 1e9)


def _note(real: str, status: os.stat_result) -> Path:
    """The note's path: by the file's path, or by inode where it has several hard links, whose times change together."""
    what = f"inode {status.st_ino} {status.st_size}".encode() if status.st_nlink > 1 else os.fsencode(real)
    name = hashlib.sha256(what).hexdigest()
    return home() / "digests" / name[:2] / f"{name}.json"


def _notes() -> Iterator[Path]:
    return (home() / "digests").glob("??/*")


def _read_note(note: Path) -> dict[str, Any]:
    try:
        content = json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def json_safe(value: object, *, finite: bool = False) -> Any:
    """``value`` with text in place of what JSON cannot express; if ``finite``, None in place of infinity and NaN."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, finite=finite) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        # A set has no order, and a key needs one.
        return sorted((json_safe(item, finite=finite) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [json_safe(item, finite=finite) for item in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
