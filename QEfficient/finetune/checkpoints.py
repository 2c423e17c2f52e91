"""Checkpoints that can be trusted: each is complete only once a manifest with the digest of every file is in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from QEfficient.errors import ArtifactError, ArtifactNotFound, CorruptArtifact, OptionError, UnsafeCheckpoint
from QEfficient.store.digests import canonical
from QEfficient.store.files import remove
from QEfficient.store.manifest import ADVICE, MANIFEST_NAME, Artifact, open_artifact
from QEfficient.store.publish import Recipe, seal

logger = logging.getLogger(__name__)

_KIND = "checkpoint"
_NAME = re.compile(r"checkpoint-(\d+)")
"""As transformers' Trainer calls them, by the optimizer step after which they were written."""

_PICKLED_WEIGHTS = ("adapter_model.bin", "pytorch_model.bin")
"""Names under which PEFT and transformers look for weights after safetensors."""


def seal_checkpoint(folder: Path, run: Mapping[str, Any]) -> None:
    """Declare that everything is in ``folder``, a checkpoint of the run that ``run`` describes."""
    seal(folder, Recipe.of(_KIND, run, label=folder.name))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Folders of checkpoints, complete or not, the newest first."""
    if not output_dir.is_dir():
        return []
    steps = {path: match for path in output_dir.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()}
    return sorted(steps, key=lambda path: int(steps[path][1]), reverse=True)


def newest_complete(output_dir: Path, *, is_strict: bool = False) -> Artifact | None:
    """The newest checkpoint whose files all have the digests of its manifest; says which it passed over, and why.

    Raises:
        CorruptArtifact: with ``is_strict``, where the newest is damaged or incomplete.
    """
    for folder in list_checkpoints(output_dir):
        try:
            artifact = open_artifact(folder, fresh=True)
        except ArtifactError as error:
            is_unfinished = isinstance(error, ArtifactNotFound)
            why = "it was not written to its end" if is_unfinished else str(error).removesuffix(f". {ADVICE}")
            if is_strict:
                raise CorruptArtifact(
                    f"{folder} cannot be used: {why}. Without strict_resume, the checkpoint before it is used."
                ) from error
            logger.warning("%s is passed over: %s.", folder, why)
        else:
            return artifact
    return None


def set_aside(output_dir: Path, start: Artifact | None) -> None:
    """Take what was passed over out of the way of the run, which writes these checkpoints again: what is left of the
    old ones would become part of the new. Unfinished ones are removed, damaged ones are renamed.

    Args:
        output_dir: of the run.
        start: the checkpoint that it continues from, if it does.
    """
    for folder in list_checkpoints(output_dir):
        if start is not None and folder.name == start.path.name:
            return
        if (folder / MANIFEST_NAME).exists():
            aside = folder.with_name(f"damaged-{folder.name}")
            remove(aside)
            folder.rename(aside)
            logger.warning("%s is now %s.", folder, aside.name)
        else:
            remove(folder)


def check_same_run(checkpoint: Artifact, run: Mapping[str, Any]) -> None:
    """
    Raises:
        OptionError: the checkpoint is of a run with other settings, data or weights; lists what differs.
    """
    before, now = checkpoint.manifest.ingredients, canonical(run)
    changes = [
        f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise OptionError(
            f"{checkpoint.path} was written with other settings:\n  "
            + "\n  ".join(changes)
            + "\nResume with the same, or train into another output_dir."
        )


def check_no_pickles(checkpoint: Artifact) -> None:
    """
    Raises:
        UnsafeCheckpoint: weights are in a pickle, where the Trainer of this library writes safetensors.
    """
    pickled = [name for name in checkpoint.manifest.files if Path(name).name in _PICKLED_WEIGHTS]
    if pickled:
        raise UnsafeCheckpoint(
            f"{checkpoint.path}: {pickled[0]} is a pickle, and reading it could run code. Remove this checkpoint; the "
            "run that wrote it was not one of this library."
        )


def prune(output_dir: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints that have a manifest."""
    complete = [folder for folder in list_checkpoints(output_dir) if (folder / MANIFEST_NAME).is_file()]
    for folder in complete[keep:]:
        remove(folder)
