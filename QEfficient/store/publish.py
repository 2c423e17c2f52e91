"""Publishes a folder complete or not at all.

A build writes into a temporary folder beside the final one; its files are checked, hashed and synced to the disk; a
rename publishes it. Everything here except :class:`Recipe` is for the holder of the folder's lock.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from QEfficient.errors import ArtifactError
from QEfficient.store.digests import canonical, digest, hash_file, recall, remember, settled_stat
from QEfficient.store.files import (
    list_files,
    new_sibling,
    remove,
    siblings,
    storage_errors,
    sync_file,
    sync_folder,
    sync_tree,
    write_atomic,
)
from QEfficient.store.leftovers import noted
from QEfficient.store.locks import hold
from QEfficient.store.manifest import (
    MANIFEST_NAME,
    Artifact,
    FileRecord,
    Manifest,
    check_kind,
    is_safe_name,
    read_artifact,
    writer_versions,
)


@dataclass(frozen=True)
class Built:
    """The result of a build that knows more than the manifest's body."""

    body: Mapping[str, Any]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """Files that it hashed while it wrote them, by relative POSIX name: they are not read again."""


Build = Callable[[Path], Mapping[str, Any] | Built]
"""Writes files into the folder passed to it and returns the manifest's body, or a :class:`Built`."""


@dataclass(frozen=True)
class Recipe:
    """The part of a manifest that is known before the build."""

    kind: str
    key: str
    ingredients: dict[str, Any]
    label: str
    versions: dict[str, str]

    @classmethod
    def of(
        cls, kind: str, ingredients: Mapping[str, Any], label: str = "", versions: Mapping[str, str] | None = None
    ) -> Recipe:
        """Bring the ingredients into their canonical form and name it.

        Raises:
            TypeError: An ingredient has no canonical form.
            ValueError: ``kind`` is not a short lower-case word.
        """
        check_kind(kind)
        plain = canonical(ingredients)
        return cls(kind, digest(plain), plain, label, dict(versions or {}))

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.label or self.key[:12]} ({self.kind})"


def publish(folder: Path, recipe: Recipe, build: Build) -> Artifact:
    """Build and put the result at ``folder``, in place of what is there. A failure leaves what is there.

    Raises:
        ArtifactError: The build left nothing, an empty file, a link or a name that is not portable.
        StorageError: The disk is full or not writable.
    """
    temporary = new_sibling(folder, "tmp")
    with noted(folder):
        try:
            with storage_errors(folder):
                temporary.mkdir()
            with storage_errors(folder, only_under=temporary):
                made = build(temporary)
            with storage_errors(folder):
                manifest, seen = _finish(temporary, recipe, made if isinstance(made, Built) else Built(made))
                _swap(temporary, folder)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                remove(temporary)
            raise
    for name, record in manifest.files.items():
        remember(folder / name, record.sha256, seen[name])
    return Artifact(folder, manifest)


def publish_files(folder: Path, build: Callable[[Path], None]) -> None:
    """Build a folder of files that is no artifact, without a manifest: complete or not at all.

    Args:
        folder: absolute; not there yet, or empty.
        build: writes files into the folder passed to it.

    Raises:
        ArtifactError: there is something in ``folder``, or it is a mount point.
        StorageError: the disk is full or not writable.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder), noted(folder):
        with storage_errors(folder):
            recover(folder)
            check_empty(folder)
        temporary = new_sibling(folder, "tmp")
        try:
            with storage_errors(folder):
                temporary.mkdir()
            with storage_errors(folder, only_under=temporary):
                build(temporary)
            with storage_errors(folder):
                for name in list_files(temporary):
                    sync_file(temporary / name)
                sync_tree(temporary)
                _swap(temporary, folder)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                remove(temporary)
            raise


def seal(folder: Path, recipe: Recipe, body: Mapping[str, Any] | None = None) -> Artifact:
    """Write the manifest of a folder that something else has filled in place. Until then, it is no artifact.

    Raises:
        ArtifactError: There is nothing in it, an empty file, a link or a name that is not portable.
        StorageError: The disk is full or not writable.
    """
    with storage_errors(folder):
        remove(folder / MANIFEST_NAME)
        manifest, seen = _finish(folder, recipe, Built(body or {}))
    for name, record in manifest.files.items():
        remember(folder / name, record.sha256, seen[name])
    return Artifact(folder, manifest)


def check_empty(folder: Path) -> None:
    """
    Raises:
        ArtifactError: nothing can be published at ``folder``: something is there, or it is a mount point.
    """
    if os.path.ismount(folder):
        raise ArtifactError(f"{folder} is a mount point, which cannot be replaced as a whole: give a folder inside it.")
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} already exists, and stays as it is. Remove it, or give another folder.")


def _finish(folder: Path, recipe: Recipe, built: Built) -> tuple[Manifest, dict[str, os.stat_result]]:
    plain_body = json.loads(json.dumps(dict(built.body), allow_nan=False))
    statuses = list_files(folder)
    _check_built(statuses, recipe)
    files: dict[str, FileRecord] = {}
    seen: dict[str, os.stat_result] = {}
    for name in statuses:
        sync_file(folder / name)
        files[name], seen[name] = _record(folder / name, built.files.get(name))
    versions = {**writer_versions(), **recipe.versions}
    manifest = Manifest(recipe.kind, recipe.key, recipe.ingredients, plain_body, files, recipe.label, versions=versions)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    sync_file(folder / MANIFEST_NAME)
    sync_tree(folder)
    return manifest, seen


def _record(path: Path, written: FileRecord | None) -> tuple[FileRecord, os.stat_result]:
    """A file's record, and the stat for which it holds; ``written``: the record that its writer reports, if any."""
    if written is None:
        linked = path.stat().st_nlink > 1  # from an artifact that was verified
        sha256, status = (recall(path) if linked else None) or hash_file(path)
        return FileRecord(status.st_size, sha256), status
    status = settled_stat(path)
    if status.st_size != written.size:
        raise ArtifactError(f"{path} has {status.st_size} bytes, its writer wrote {written.size}. Build it again.")
    return written, status


def _check_built(statuses: Mapping[str, os.stat_result], recipe: Recipe) -> None:
    if not statuses:
        raise ArtifactError(f"The build of {recipe.title} left no files")
    for name, status in statuses.items():
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"The build of {recipe.title} left {name}, which is a link or a device: copy the file")
        if status.st_size == 0:
            raise ArtifactError(f"The build of {recipe.title} left {name} empty")
        if not is_safe_name(name):
            raise ArtifactError(f"The build of {recipe.title} left {name!r}: not a name that every system can store")


def _swap(temporary: Path, folder: Path) -> None:
    if not os.path.lexists(folder):
        os.rename(temporary, folder)
    else:  # POSIX cannot exchange two folders; after a crash in between, recover() restores the old one
        old = new_sibling(folder, "old")
        os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except BaseException:
            os.rename(old, folder)
            raise
        remove(old)
    sync_folder(folder.parent)


def recover(folder: Path) -> None:
    """Remove what a killed writer of ``folder`` left beside it."""
    for old in siblings(folder, "old"):
        if os.path.lexists(folder):
            remove(old)
        else:
            os.rename(old, folder)
    for temporary in siblings(folder, "tmp"):
        remove(temporary)


def update_body(artifact: Artifact, changes: Mapping[str, Any]) -> Artifact:
    """Write new values into the body of an artifact's manifest; its files and its key stay.

    Args:
        artifact: The artifact; values that others wrote since it was opened are kept.
        changes: Top-level names of the body -> new JSON values.

    Raises:
        ArtifactError: The folder now holds something else.
        StorageError: The disk is full or not writable.
    """
    with hold(artifact.path), storage_errors(artifact.path), noted(artifact.path):
        now = read_artifact(artifact.path).manifest
        if (now.kind, now.key) != (artifact.manifest.kind, artifact.manifest.key):
            raise ArtifactError(f"{artifact.path} was replaced by another artifact ({now.label or now.key[:12]})")
        body = json.loads(json.dumps({**now.body, **changes}, allow_nan=False))
        manifest = replace(now, body=body)
        temporary = new_sibling(artifact.path, "tmp")
        write_atomic(artifact.path / MANIFEST_NAME, manifest.to_json(), temporary=temporary)
    return Artifact(artifact.path, manifest)
