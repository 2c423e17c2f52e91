"""The content-addressed store of exported graphs and compiled packages.

An artifact is a folder with a manifest, named by the digest of everything that made it. It is published complete or
not at all, verified whenever it is opened, and rebuilt when it is damaged. Nothing in it is ever executed or
unpickled by this library.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from QEfficient.errors import ArtifactError, ArtifactNotFound, CorruptArtifact, StorageError
from QEfficient.store import housekeeping
from QEfficient.store.digests import digest, is_sha256
from QEfficient.store.entries import Entry, folder_of, open_entry, open_or_quarantine, scan, touch
from QEfficient.store.files import (
    home,
    is_denied,
    make_private,
    storage_errors,
    temporary_home,
    user_path,
    warn_if_shared,
)
from QEfficient.store.housekeeping import ABSENT
from QEfficient.store.leftovers import sweep
from QEfficient.store.locks import hold
from QEfficient.store.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Artifact,
    FileRecord,
    Manifest,
    check_kind,
    open_artifact,
    read_artifact,
)
from QEfficient.store.publish import Build, Built, Recipe, publish, recover, update_body

__all__ = [
    "ABSENT",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Artifact",
    "ArtifactStore",
    "Build",
    "Built",
    "Entry",
    "FileRecord",
    "Manifest",
    "home",
    "open_artifact",
    "update_body",
    "write_artifact",
]

logger = logging.getLogger(__name__)


class ArtifactStore:
    """Artifacts by kind and ingredients. Any number of processes may use one at a time.

    Attributes:
        root: Its folder; default: ``home()/"artifacts"``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = user_path(root) if root is not None else home() / "artifacts"
        warn_if_shared(self.root)

    def get(self, kind: str, ingredients: Mapping[str, Any]) -> Artifact | None:
        """The stored artifact of these ingredients, if it is intact.

        An entry that is damaged, or of a newer format, goes to quarantine with one warning and is a miss.
        """
        check_kind(kind)
        folder = folder_of(self.root, kind, digest(ingredients))
        try:
            artifact: Artifact | None = open_entry(folder)
        except ArtifactError as error:
            artifact = self._look_again(folder, error) if os.path.lexists(folder) else None
        if artifact is not None:
            touch(folder)
        return artifact

    def get_by_key(self, kind: str, key: str) -> Artifact | None:
        """The stored artifact of this key, if it is intact; else None."""
        folder = folder_of(self.root, kind, key)
        try:
            return open_entry(folder) if is_sha256(key) else None
        except ArtifactError:
            return None

    def _look_again(self, folder: Path, problem: ArtifactError) -> Artifact | None:
        try:
            with hold(folder), storage_errors(folder):
                return open_or_quarantine(folder)
        except StorageError:
            logger.warning("A damaged entry cannot be moved out of a store that is not writable. %s", problem)
            return None

    def get_or_build(
        self,
        kind: str,
        ingredients: Mapping[str, Any],
        build: Build,
        *,
        label: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> tuple[Artifact, bool]:
        """The artifact of these ingredients; built if the store lacks it, by one process only.

        Where the store cannot be written, the artifact is built in a temporary folder of this user, with a warning.

        Args:
            kind: A short word: ``onnx``, ``package``.
            ingredients: Everything that decides the result.
            build: Writes files into the folder passed to it and returns the manifest's body.
            label: Its name for people.
            versions: Toolchain versions for the manifest, beside those of this library and Python.

        Returns:
            The artifact, and whether it was built now.

        Raises:
            ArtifactError: The build left nothing, an empty file or a link.
            StorageError: The disk is full, or neither the store nor the temporary folder can be written.
        """
        sweep(recover)
        if (stored := self.get(kind, ingredients)) is not None:
            return stored, False
        recipe = Recipe.of(kind, ingredients, label, versions)
        started: list[Path] = []

        def start(folder: Path) -> Mapping[str, Any] | Built:
            started.append(folder)
            return build(folder)

        try:
            return self._build(recipe, start)
        except StorageError as error:
            if started or not is_denied(error):
                raise
            other = ArtifactStore(temporary_home() / "artifacts")
            if self.root == other.root:
                raise
            logger.warning("%s is in %s, since the store cannot be written. %s", recipe.title, other.root, error)
        return other.get_or_build(kind, ingredients, build, label=label, versions=versions)

    def _build(self, recipe: Recipe, build: Build) -> tuple[Artifact, bool]:
        folder = folder_of(self.root, recipe.kind, recipe.key)
        with storage_errors(self.root):
            make_private(self.root)
            folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(folder, recipe.title):
            with storage_errors(folder):
                recover(folder)
                stored = open_or_quarantine(folder)
            artifact = stored or publish(folder, recipe, build)
            touch(folder)
            return artifact, stored is None

    def entries(self) -> list[Entry]:
        """Everything in the store, also what is damaged, quarantined or being built. Reads no content."""
        return list(scan(self.root))

    def why(self, kind: str, ingredients: Mapping[str, Any]) -> dict[str, tuple[Any, Any]] | None:
        """Explain a miss: see :func:`housekeeping.why`."""
        return housekeeping.why(self.root, kind, ingredients)

    def verify_all(self, *, fresh: bool = True) -> list[Entry]:
        """Verify every entry: see :func:`housekeeping.verify_all`."""
        return housekeeping.verify_all(self.root, fresh=fresh)

    def remove(self, entries: Iterable[Entry], dry_run: bool = False) -> list[Entry]:
        """Remove entries: see :func:`housekeeping.remove_entries`."""
        return housekeeping.remove_entries(entries, dry_run=dry_run)

    def prune(
        self,
        max_bytes: int | None = None,
        older_than: timedelta | None = None,
        damaged: bool = True,
        dry_run: bool = False,
    ) -> list[Entry]:
        """Make room: see :func:`housekeeping.prune`."""
        return housekeeping.prune(
            self.root, max_bytes=max_bytes, older_than=older_than, damaged=damaged, dry_run=dry_run
        )


def write_artifact(
    folder: str | os.PathLike[str],
    kind: str,
    ingredients: Mapping[str, Any],
    build: Build,
    *,
    label: str = "",
    versions: Mapping[str, str] | None = None,
) -> tuple[Artifact, bool]:
    """Publish into a folder that the user chose. Arguments and result as :meth:`ArtifactStore.get_or_build`.

    An artifact of this library in that folder is replaced when the new one is complete. If it is the same one and
    intact, it stays and nothing is built.

    Raises:
        ArtifactError: The folder holds something that we did not write, or is a mount point.
        NewerFormat: It holds an artifact of a newer library.
        StorageError: The disk is full or not writable.
    """
    path = Path(os.path.realpath(user_path(folder, "The folder to write to")))
    sweep(recover)
    recipe = Recipe.of(kind, ingredients, label, versions)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path, f"{recipe.title} in {path}"):
        with storage_errors(path):
            recover(path)
        existing = _replaceable(path)
        if existing is not None and _is_whole(existing, recipe):
            return existing, False
        _check_no_working_folder(path)
        return publish(path, recipe, build), True


def _check_no_working_folder(folder: Path) -> None:
    """A folder is replaced as a whole, and a process or shell that works in it would work nowhere."""
    try:
        working = Path.cwd()
    except FileNotFoundError:
        return
    if folder.exists() and working.is_relative_to(folder):
        raise ArtifactError(
            f"{folder} is the working folder or above it, and would be replaced: give a folder inside it."
        )


def _replaceable(folder: Path) -> Artifact | None:
    if os.path.ismount(folder):
        raise ArtifactError(f"{folder} is a mount point, which cannot be replaced as a whole: give a folder inside it")
    try:
        existing = read_artifact(folder)
    except ArtifactNotFound as error:
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return None
        raise ArtifactError(
            f"{folder} is there and was not written by this library, so it stays as it is. Give another folder."
        ) from error
    except CorruptArtifact as error:
        raise ArtifactError(f"{error} It was not replaced, since it may not be of this library.") from error
    if extra := existing.extra_files():
        raise ArtifactError(
            f"{folder} holds {extra[0]}, which this library did not write and would delete. "
            "Move it, or give another folder."
        )
    return existing


def _is_whole(existing: Artifact, recipe: Recipe) -> bool:
    if (existing.manifest.kind, existing.manifest.key) != (recipe.kind, recipe.key):
        return False
    try:
        existing.verify()
    except CorruptArtifact:
        return False
    return True
