"""A published folder: its content, and a ``manifest.json`` that says what the content should be.

The manifest is JSON and nothing in it is ever executed. It is read as if a stranger had written it: unknown fields,
wrong types, names that leave the folder and a wrong seal are all :class:`CorruptArtifact`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from QEfficient.errors import ArtifactError, ArtifactNotFound, CorruptArtifact, NewerFormat, OlderFormat, nearest
from QEfficient.store.digests import digest, file_digest, is_sha256, remember
from QEfficient.store.files import list_files, user_path

FORMAT_VERSION = 2
"""1 (library 0.1.0) had a body without records of graphs."""
MANIFEST_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 64_000_000
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class FileRecord:
    """What a file should be.

    Attributes:
        size: In bytes.
        sha256: Of the content, in hex.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything known about a published folder.

    Attributes:
        kind: What it is, in a short word: ``onnx``, ``package``.
        key: Digest of ``ingredients``; its name.
        ingredients: Canonical form of everything that made it.
        body: Values for the caller: target, options, bindings, parity report.
        files: Relative POSIX name of each file -> what it should be.
        label: For people; no part of the key.
        created: UTC, ISO 8601.
        versions: Software that wrote it.
    """

    kind: str
    key: str
    ingredients: dict[str, Any]
    body: dict[str, Any]
    files: dict[str, FileRecord]
    label: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: writer_versions())
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of the file, for people too.

        Raises:
            TypeError: The body holds something that is not JSON.
            ValueError: The body holds a number that is not JSON (nan, inf).
        """
        content = dataclasses.asdict(self)
        return json.dumps({**content, "seal": _seal(content)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST_NAME) -> Manifest:
        """Read and check a manifest.

        Args:
            text: The content of the file.
            where: Its path, for messages.

        Raises:
            NewerFormat: A newer library wrote it.
            OlderFormat: An older library wrote it, in a form that is no longer read.
            CorruptArtifact: Anything else is wrong with it.
        """
        try:
            content = _parse(text)
            _check_format(content, where)
            _check_fields(content)
            files = {name: _file_record(name, record) for name, record in content["files"].items()}
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(f"{where} is damaged: {error}. {ADVICE}") from error
        del content["seal"]
        return cls(**{**content, "files": files})


ADVICE = "Delete its folder and compile again, or copy it again from where it was made."
"""The end of each message about damage."""

_TYPES = {
    "kind": str,
    "key": str,
    "ingredients": dict,
    "body": dict,
    "files": dict,
    "label": str,
    "created": str,
    "versions": dict,
    "format_version": int,
    "seal": str,
}


def _seal(content: Mapping[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def _parse(text: str | bytes) -> dict[str, Any]:
    content = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins)
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _check_format(content: Mapping[str, Any], where: str) -> None:
    version = content.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"its format_version is {version!r}")
    if version == FORMAT_VERSION:
        return
    versions = content.get("versions")
    writer = versions.get("qefficient", "unknown") if isinstance(versions, dict) else "unknown"
    about = (
        f"{where} has format version {version}, written by QEfficient {writer}; this is QEfficient "
        f"{writer_versions()['qefficient']}, which reads "
    )
    if version > FORMAT_VERSION:
        raise NewerFormat(f"{about}up to {FORMAT_VERSION}. Upgrade the library, or compile again into another folder.")
    raise OlderFormat(f"{about}{FORMAT_VERSION}. Compile again.")


def _check_fields(content: Mapping[str, Any]) -> None:
    if odd := sorted(_TYPES.keys() ^ content.keys()):
        raise ValueError(f"the field {odd[0]!r} is {'missing' if odd[0] in _TYPES else 'unknown'}")
    for name, expected in _TYPES.items():
        if not isinstance(content[name], expected):
            raise ValueError(f"{name} is a {type(content[name]).__name__}, expected a {expected.__name__}")
    if not _KIND.fullmatch(content["kind"]):
        raise ValueError(f"its kind is {content['kind']!r}")
    if not all(isinstance(version, str) for version in content["versions"].values()):
        raise ValueError("a version is not text")
    if content["seal"] != _seal({name: value for name, value in content.items() if name != "seal"}):
        raise ValueError("it was changed after it was written (its seal does not fit)")
    if content["key"] != digest(content["ingredients"]):
        raise ValueError("its key is not the digest of its ingredients")


def _file_record(name: str, record: object) -> FileRecord:
    if not is_safe_name(name):
        raise ValueError(f"it names a file outside of its folder: {name!r}")
    if not isinstance(record, dict) or record.keys() != {"size", "sha256"}:
        raise ValueError(f"it has no size and sha256 of {name}")
    size, sha256 = record["size"], record["sha256"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 or not is_sha256(sha256):
        raise ValueError(f"the size or sha256 of {name} is {size!r}, {sha256!r}")
    return FileRecord(size, sha256)


def is_safe_name(name: str) -> bool:
    """Whether ``name`` is a plain relative POSIX path that stays in its folder on every system."""
    path = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set('\\:*?"<>|') and str(path) == name
    return plain and not path.is_absolute() and path.parts not in ((), (MANIFEST_NAME,)) and ".." not in path.parts


def check_kind(kind: str) -> None:
    """Raise ValueError unless ``kind`` can name a folder of the store."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"The kind of an artifact is a short lower-case word, not {kind!r}")


def writer_versions() -> dict[str, str]:
    """Versions of this library and of Python."""
    from importlib import metadata  # 50 ms that only a writer needs

    try:
        library = metadata.version("QEfficient")
    except metadata.PackageNotFoundError:
        library = "unknown"
    return {"qefficient": library, "python": platform.python_version()}


@dataclass(frozen=True)
class Artifact:
    """A published folder.

    Attributes:
        path: The folder.
        manifest: What its ``manifest.json`` says.
    """

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ArtifactError: The manifest has no such file, or a link leads out of the folder.
        """
        if name not in self.manifest.files:
            known = ", ".join(self.manifest.files)
            hint = nearest(name, self.manifest.files)
            raise ArtifactError(f"{self.path} has no file {name!r}.{hint} It has: {known}")
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ArtifactError(f"{path} is a link that leads out of the artifact")
        return path

    def verify(self, *, fresh: bool = False) -> None:
        """Compare the folder with its manifest.

        Args:
            fresh: Read every file, even those that have not changed since they were last read.

        Raises:
            CorruptArtifact: Names the first file that is missing, truncated, changed or not in the manifest.
        """
        try:
            self.verify_sizes()
            for name, expected in self.manifest.files.items():
                sha256 = file_digest(self.path / name, fresh=fresh)
                if sha256 != expected.sha256:
                    self._damaged(name, f"has sha256 {sha256}, expected {expected.sha256}")
        except OSError as error:
            raise CorruptArtifact(f"{self.path} cannot be read: {error}") from error

    def verify_sizes(self) -> None:
        """The part of :meth:`verify` that reads no content."""
        statuses = list_files(self.path)
        for name, expected in self.manifest.files.items():
            if name not in statuses:
                self._damaged(name, f"is missing, expected {expected.size} bytes")
            if not stat.S_ISREG(statuses[name].st_mode):
                self._damaged(name, "is a link or a device, expected a file")
            if statuses[name].st_size != expected.size:
                self._damaged(name, f"has {statuses[name].st_size} bytes, expected {expected.size}")
        if extra := self.extra_files(statuses):
            self._damaged(extra[0], "is not in the manifest")

    def copy_into(self, folder: Path) -> dict[str, Any]:
        """Copy its files into an existing folder, as a build that only copies.

        Returns:
            The manifest's body.
        """
        for name in self.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file(name), folder / name)
        return dict(self.manifest.body)

    def link_into(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Put its files into an existing folder: hard links inside one store, copies elsewhere.

        Args:
            folder: where an artifact is being built. A folder outside the store never shares bytes with it.
            names: of the files; None: all.
        """
        root = self.path.parents[2]
        for name in self.manifest.files if names is None else names:
            record = self.manifest.files[name]
            source, link = self.file(name), folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not folder.is_relative_to(root):
                    raise OSError("outside the store")
                os.link(source, link)
            except OSError:
                shutil.copyfile(source, link)
            else:
                remember(link, record.sha256, link.stat())

    def extra_files(self, names: Iterable[str] | None = None) -> list[str]:
        """Files that the manifest does not list, of ``names`` or of the whole folder."""
        names = list_files(self.path) if names is None else names
        return sorted(set(names) - self.manifest.files.keys() - {MANIFEST_NAME})

    def _damaged(self, name: str, what: str) -> NoReturn:
        raise CorruptArtifact(f"{self.path / name} {what}. {ADVICE}")


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Open a folder by its manifest, without checking its files. Raises as :func:`open_artifact`."""
    folder = user_path(path, "The package")
    manifest = folder / MANIFEST_NAME
    try:
        status = manifest.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST_BYTES:
            raise CorruptArtifact(f"{manifest} is not a file of at most {_MAX_MANIFEST_BYTES} bytes. {ADVICE}")
        return Artifact(folder, Manifest.from_json(manifest.read_bytes(), str(manifest)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(
            f"There is no package at {folder}: it has no {MANIFEST_NAME}. "
            "Give the folder that compile() or export() made."
        ) from error
    except OSError as error:
        raise CorruptArtifact(f"{manifest} cannot be read: {error}") from error


def open_artifact(path: str | os.PathLike[str], *, fresh: bool = False) -> Artifact:
    """Open and verify a published folder anywhere.

    Args:
        path: The folder.
        fresh: As in :meth:`Artifact.verify`.

    Raises:
        ArtifactNotFound: No manifest there.
        CorruptArtifact: The manifest or a file is damaged.
        NewerFormat: A newer library wrote it.
    """
    artifact = read_artifact(path)
    artifact.verify(fresh=fresh)
    return artifact
