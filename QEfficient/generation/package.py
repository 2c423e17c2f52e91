"""Opens compiled packages. Neither torch nor transformers is imported here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from QEfficient.contract import PACKAGE, PackageBody
from QEfficient.errors import ArtifactError
from QEfficient.generation.compiled_model import CompiledModel
from QEfficient.store.artifacts import MANIFEST_NAME, open_artifact
from QEfficient.store.files import user_path
from QEfficient.store.manifest import Artifact
from QEfficient.store.records import read_record
from QEfficient.tasks import TASKS

Setting = str | int | Sequence[int] | Mapping[str, Any] | None
"""A setting of :func:`from_package`: a precision, a size, several sizes, or ``compiler_options``."""


def from_package(
    path: str | os.PathLike[str], device_ids: Sequence[int] | None = None, **settings: Setting
) -> CompiledModel[Any]:
    """Open a compiled package and load it.

    Type checkers know its arguments where it is opened by the class of its task, as in
    ``QEFFAutoModelForCausalLM.from_package(path)``.

    Args:
        path: the folder that ``compile`` returned, or a copy of it.
        device_ids: the cards to load it on; None: those with the most free cores. No effect on ``cpu``.
        settings: on ``cpu``, values that override those of the compilation: ``ctx_len``,
            ``full_batch_size``, ``precision``, ``num_threads``, ``compiler_options``.

    Raises:
        ArtifactNotFound: no package there.
        CorruptArtifact: its files are damaged.
        NewerFormat, OlderFormat: another version of the library wrote it.
        OptionError: a setting is unknown, or was settled when the package was compiled.
    """
    artifact = open_artifact(_around(path))
    body = read_body(artifact)
    if body.task not in TASKS:
        raise ArtifactError(f"{artifact.path} runs '{body.task}', and this version knows {', '.join(TASKS)}.")
    return TASKS[body.task].load_compiled()(artifact, body, device_ids, settings)


def _around(path: str | os.PathLike[str]) -> Path:
    """The package of a folder in it that has the compiled program: ``qpc``, or ``qpcs`` as upstream calls it."""
    folder = user_path(path, "The package")
    is_inside = folder.name in ("qpc", "qpcs") and not (folder / MANIFEST_NAME).is_file()
    return folder.parent if is_inside and (folder.parent / MANIFEST_NAME).is_file() else folder


def read_body(artifact: Artifact) -> PackageBody:
    """A package's description of itself.

    Raises:
        ArtifactError: it is another kind of artifact.
        CorruptArtifact: the description is incomplete or has wrong fields.
    """
    if artifact.manifest.kind != PACKAGE:
        raise ArtifactError(
            f"{artifact.path} holds a {artifact.manifest.kind!r} artifact, not a compiled package; run compile() on it."
        )
    return read_record(PackageBody, artifact.manifest.body, f"{artifact.path}: package")
