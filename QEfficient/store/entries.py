"""The layout of a store: ``<kind>/<first 2 of key>/<key>/`` and, beside each entry, its side files.

Beside an entry are its lock, its last-used marker, temporary folders (of a build that runs or was killed) and
quarantined copies, named as :mod:`QEfficient.store.files` says.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from QEfficient.errors import ArtifactError, CorruptArtifact
from QEfficient.store.files import list_files, new_sibling, sibling, siblings
from QEfficient.store.manifest import Artifact, open_artifact, read_artifact

logger = logging.getLogger(__name__)

State = Literal["stored", "damaged", "quarantine", "temporary"]

_SIBLING = re.compile(r"\.([0-9a-f]{64})\.(tmp|old|damaged)-.+")


@dataclass(frozen=True)
class Entry:
    """One entry of a store, intact or not.

    Attributes:
        path: Its folder.
        kind: As in the manifest.
        key: As in the manifest.
        state: ``stored`` is usable as far as its sizes tell; ``damaged`` is not and will be rebuilt when asked for;
            ``quarantine`` was moved aside; ``temporary`` is a build that runs or was killed.
        size_bytes: Of its files, those that it shares with other entries included; see :func:`stored_bytes`.
        last_used: Seconds since the epoch.
        artifact: For ``stored``.
        problem: What is wrong, for ``damaged``.
    """

    path: Path
    kind: str
    key: str
    state: State
    size_bytes: int
    last_used: float
    artifact: Artifact | None = None
    problem: str = ""
    inodes: tuple[tuple[int, int], ...] = ()
    """Of each file: inode and bytes. Packages share files with the program that they run."""

    @property
    def folder(self) -> Path:
        """Where the entry of this key is or would be; the place that the lock belongs to."""
        return self.path.parent / self.key

    @property
    def label(self) -> str:
        """Its label for people, or the beginning of its key."""
        return (self.artifact.manifest.label if self.artifact else "") or self.key[:12]


def stored_bytes(entries: Iterable[Entry]) -> int:
    """Disk space of entries: a file that several share counts once."""
    return sum({inode: size for entry in entries for inode, size in entry.inodes}.values())


def folder_of(root: Path, kind: str, key: str) -> Path:
    """The folder of an entry."""
    return root / kind / key[:2] / key


def open_entry(folder: Path, *, fresh: bool = False) -> Artifact:
    """:func:`open_artifact`, and it must be the artifact that its place promises."""
    artifact = open_artifact(folder, fresh=fresh)
    recorded, expected = (artifact.manifest.kind, artifact.manifest.key), (folder.parent.parent.name, folder.name)
    if recorded != expected:
        raise CorruptArtifact(f"{folder} holds {'/'.join(recorded)}, which belongs elsewhere")
    return artifact


def open_or_quarantine(folder: Path, *, fresh: bool = False) -> Artifact | None:
    """The entry, or None after moving aside what cannot be used. For the holder of the entry's lock."""
    try:
        return open_entry(folder, fresh=fresh)
    except ArtifactError as error:
        if os.path.lexists(folder):
            aside = new_sibling(folder, "damaged")
            os.rename(folder, aside)
            logger.warning("Moved a damaged entry of the artifact store to %s; it will be made again. %s", aside, error)
        return None


def touch(folder: Path) -> None:
    """Note that an entry was used now, if the store can be written."""
    with suppress(OSError):
        sibling(folder, "used").touch()


def scan(root: Path) -> Iterator[Entry]:
    """Everything in a store, by name. Reads manifests and sizes, no content."""
    for folder in sorted(root.glob("*/??/*")):
        if aside := _SIBLING.fullmatch(folder.name):
            state: State = "quarantine" if aside[2] == "damaged" else "temporary"
            entry = _entry(folder, aside[1], state)
        elif re.fullmatch("[0-9a-f]{64}", folder.name):
            entry = _stored(folder)
        else:
            continue
        if entry is not None:
            yield entry


def is_unused_since_scan(entry: Entry) -> bool:
    """Whether the entry still exists and has not been used since the scan. For the holder of its lock."""
    try:
        return _last_used(entry.path, entry.path.lstat()) <= entry.last_used
    except FileNotFoundError:
        return False


def forget(folder: Path) -> None:
    """Delete the last-used marker of a removed entry. For the holder of the lock, whose file stays."""
    if not os.path.lexists(folder) and not siblings(folder, "damaged"):
        with suppress(OSError):
            sibling(folder, "used").unlink()


def _stored(folder: Path) -> Entry | None:
    try:
        artifact = read_artifact(folder)
        artifact.verify_sizes()
        return _entry(folder, folder.name, "stored", artifact)
    except (ArtifactError, OSError) as error:
        return _entry(folder, folder.name, "damaged", problem=str(error))


def _entry(path: Path, key: str, state: State, artifact: Artifact | None = None, problem: str = "") -> Entry | None:
    try:
        status = path.lstat()
        files = list_files(path).values() if path.is_dir() else [status]
    except OSError:  # removed or renamed by another process meanwhile
        return None
    inodes = tuple((file.st_ino, file.st_size) for file in files)
    size = sum(bytes_ for _, bytes_ in inodes)
    last_used = _last_used(path, status)
    return Entry(path, path.parent.parent.name, key, state, size, last_used, artifact, problem, inodes)


def _last_used(path: Path, status: os.stat_result) -> float:
    with suppress(OSError):
        return sibling(path, "used").stat().st_mtime
    return status.st_mtime
