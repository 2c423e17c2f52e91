"""Maintenance of a store: explain a miss, verify all entries, free space."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from QEfficient.errors import ArtifactError, StorageError
from QEfficient.store.digests import canonical, forget_missing
from QEfficient.store.entries import (
    Entry,
    forget,
    is_unused_since_scan,
    open_entry,
    open_or_quarantine,
    scan,
    stored_bytes,
)
from QEfficient.store.files import new_sibling, remove, siblings, storage_errors
from QEfficient.store.linked_folders import forget_unlinked
from QEfficient.store.locks import hold, hold_if_free

ABSENT = "(absent)"
"""In :func:`why`, the value of an ingredient that one side lacks."""


def why(root: Path, kind: str, ingredients: Mapping[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    """How ``ingredients`` differ from those of the nearest entry of their kind.

    Returns:
        Dotted name -> (value in the entry, value asked for), empty when the entry is there, None when there is no
        entry of this kind. Among equally near entries, the one used last.
    """
    asked = _flat(canonical(ingredients))
    latest_first = sorted(scan(root), key=lambda entry: entry.last_used, reverse=True)
    stored = [entry.artifact.manifest for entry in latest_first if entry.kind == kind and entry.artifact is not None]
    return min((_differences(_flat(manifest.ingredients), asked) for manifest in stored), key=len, default=None)


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (stored.get(name, ABSENT), asked.get(name, ABSENT)) for name in sorted(stored.keys() | asked.keys())}
    return {name: (old, new) for name, (old, new) in pairs.items() if (type(old), old) != (type(new), new)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        parts = [(f"{name}.{key}" if name else key, item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        parts = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {name: value}
    return {inner: leaf for part, item in parts for inner, leaf in _flat(item, part).items()}


def verify_all(root: Path, *, fresh: bool = True) -> list[Entry]:
    """Verify every entry; damaged ones go to quarantine.

    Args:
        root: The store.
        fresh: Read every byte, even of files that have not changed since they were last read.

    Returns:
        All entries as they are now. Those that are not ``stored`` have a ``problem``.
    """
    return [_verified(entry, fresh) for entry in scan(root) if entry.state in ("stored", "damaged")]


def _verified(entry: Entry, fresh: bool) -> Entry:
    try:
        open_entry(entry.path, fresh=fresh)
        return entry
    except ArtifactError as error:
        damaged = replace(entry, state="damaged", artifact=None, problem=str(error))
    before = set(siblings(entry.path, "damaged"))
    try:
        with hold(entry.path), storage_errors(entry.path):
            if (artifact := open_or_quarantine(entry.path, fresh=fresh)) is not None:
                return replace(entry, state="stored", artifact=artifact, problem="")
    except StorageError:  # the store is not writable: the entry stays where it is
        return damaged
    moved = set(siblings(entry.path, "damaged")) - before
    return replace(damaged, path=moved.pop(), state="quarantine") if moved else damaged


def prune(
    root: Path,
    *,
    max_bytes: int | None = None,
    older_than: timedelta | None = None,
    damaged: bool = True,
    dry_run: bool = False,
) -> list[Entry]:
    """Free space. Locked entries stay; files that a process has open stay readable for it (POSIX).

    Args:
        root: The store.
        max_bytes: Remove the entries used longest ago until the others fit.
        older_than: Remove entries that were last used longer ago than this.
        damaged: Remove damaged entries and the quarantine too. Leftovers of killed builds are always removed.
        dry_run: Remove nothing.

    Returns:
        The removed entries, or those that would be removed.
    """
    entries = list(scan(root))
    whole = _longest_unused_first([entry for entry in entries if entry.state == "stored"])
    rubbish = [entry for entry in entries if entry.state == "temporary" or (damaged and entry.state != "stored")]
    oldest_kept = time.time() - older_than.total_seconds() if older_than is not None else float("-inf")
    expired = [entry for entry in whole if entry.last_used < oldest_kept]
    removed = _remove_all([*rubbish, *expired], dry_run)
    if max_bytes is not None:
        gone = {entry.path for entry in removed}
        left = [entry for entry in whole if entry.path not in gone]
        removed += _remove_until_fits(left, max_bytes, dry_run)
    if not dry_run:
        forget_missing()
        forget_unlinked()
    return removed


def remove_entries(entries: Iterable[Entry], *, dry_run: bool = False) -> list[Entry]:
    """Remove entries, but for those that are locked or were used since they were listed.

    Returns:
        The removed entries, or those that would be removed.
    """
    removed = _remove_all(entries, dry_run)
    if not dry_run:
        forget_missing()
        forget_unlinked()
    return removed


def _longest_unused_first(entries: list[Entry]) -> list[Entry]:
    """A program counts as used when one of its packages was."""
    used: dict[int, float] = {}
    for entry in entries:
        for inode, _ in entry.inodes:
            used[inode] = max(used.get(inode, 0.0), entry.last_used)
    times = {id(entry): max([entry.last_used, *(used[inode] for inode, _ in entry.inodes)]) for entry in entries}
    return sorted(entries, key=lambda entry: (times[id(entry)], entry.last_used))


def _remove_until_fits(entries: list[Entry], max_bytes: int, dry_run: bool) -> list[Entry]:
    """Remove entries in order; a file's bytes are free when the last entry that has it is gone."""
    num_links = Counter(inode for entry in entries for inode, _ in entry.inodes)
    excess, removed = stored_bytes(entries) - max_bytes, []
    for entry in entries:
        if excess <= 0 or not _remove_all([entry], dry_run):
            continue
        removed.append(entry)
        for inode, size in entry.inodes:
            num_links[inode] -= 1
            excess -= 0 if num_links[inode] else size
    return removed


def _remove_all(entries: Iterable[Entry], dry_run: bool) -> list[Entry]:
    return [entry for entry in entries if _remove(entry, dry_run)]


def _remove(entry: Entry, dry_run: bool) -> bool:
    with hold_if_free(entry.folder) as is_locked, storage_errors(entry.path):
        if not is_locked or not is_unused_since_scan(entry):
            return False
        if not dry_run:
            doomed = new_sibling(entry.folder, "tmp")  # renamed first, so that no reader sees half of an entry
            entry.path.rename(doomed)
            remove(doomed)
            forget(entry.folder)
    return True
