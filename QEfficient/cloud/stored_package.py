"""Packages by the files of their checkpoint: a model that was compiled before is answered without importing PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.cloud.generate_args import TextSupport
from QEfficient.cloud.model_args import ModelSource, check_options
from QEfficient.contract import PACKAGE
from QEfficient.errors import OptionError
from QEfficient.machine import memory_bytes
from QEfficient.store.artifacts import ArtifactStore
from QEfficient.store.digests import file_digest
from QEfficient.store.manifest import read_artifact
from QEfficient.store.notes import read_note, write_note
from QEfficient.store.source_version import source_version
from QEfficient.targets import Target, choose_target
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel

logger = logging.getLogger(__name__)

_KIND = "packages"
_FORMAT = 1
_LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "openvino", "nncf")
_NOT_READ = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".tflite")
"""Weights in forms that no model here is loaded from."""
_NOT_CONTENT = ("token", "cache_dir", "local_files_only")
"""Load options that decide where files come from, not what is in them."""


@dataclass(frozen=True)
class StoredPackage:
    """A package that these files and options made before, and what is checked of a model before it is used."""

    path: Path
    task: str
    reads: TextSupport


@dataclass(frozen=True)
class PackageNote:
    """Where the package of a model and options is noted; None where it depends on more than files.

    What an SDK makes depends on its version too, and is looked up the long way; so is a package with adapters.
    """

    ingredients: Mapping[str, Any] | None

    @classmethod
    def of(cls, source: ModelSource, compile_options: Mapping[str, Any]) -> PackageNote:
        """The note of a command line; reads no weights but those that changed since they were last read."""
        target = _target(compile_options)
        is_known = target is not None and target.name == "cpu" and not source.adapters
        folder = _folder(source) if is_known else None
        if folder is None:
            return cls(None)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _NOT_READ]
        return cls(
            {
                "format": _FORMAT,
                "files": {str(path.relative_to(folder)): file_digest(path) for path in files},
                "name": source.name,
                "load": {name: value for name, value in source.load_options.items() if name not in _NOT_CONTENT},
                "options": {**compile_options, "target": "cpu"},
                "memory": memory_bytes(),
                "library": source_version(),
                "modules": _modules(),
                "versions": {name: _version(name) for name in _LIBRARIES},
            }
        )

    def read(self, compile_options: Mapping[str, Any]) -> StoredPackage | None:
        """The package, if it is still in the store and intact, and no option is to be warned of."""
        note = read_note(_KIND, self.ingredients) if self.ingredients is not None else None
        if note is None or _has_remarks(note["task"], compile_options):
            return None
        artifact = ArtifactStore().get_by_key(PACKAGE, note["key"])
        if artifact is None:
            return None
        target = choose_target("cpu")
        logger.info("Target: %s (%s).", target.name, target.description)
        logger.info("Found %s: %s", PACKAGE, artifact.path)
        return StoredPackage(artifact.path, note["task"], TextSupport(**note["reads"]))

    def write(self, model: QEFFBaseModel, package: Path) -> None:
        """Note the package that ``model`` was compiled to."""
        if self.ingredients is None:
            return
        key, reads = read_artifact(package).manifest.key, asdict(TextSupport.of(model))
        write_note(_KIND, self.ingredients, {"key": key, "task": model.task, "reads": reads})


def stored_or_compiled(
    source: ModelSource,
    compile_options: Mapping[str, Any],
    check: Callable[[str, TextSupport], None] = lambda task, reads: None,
) -> Path:
    """The package of a command line, by its note or compiled now. The model's memory is free when this returns.

    Args:
        source: the model.
        compile_options: options of ``compile``.
        check: called with the model's task and what reads its texts before anything is compiled or used.

    Raises:
        OptionError: an option belongs to models of another task; and as ``from_pretrained`` and ``compile``.
    """
    note = PackageNote.of(source, compile_options)
    if (stored := note.read(compile_options)) is not None:
        check(stored.task, stored.reads)
        return stored.path
    model = source.load()
    check_options(model, compile_options)
    check(model.task, TextSupport.of(model))
    package = model.compile(**compile_options)
    note.write(model, package)
    return package


def _target(compile_options: Mapping[str, Any]) -> Target | None:
    if compile_options.get("dry_run"):
        return None
    return choose_target(compile_options.get("target"))


def _has_remarks(task: str, compile_options: Mapping[str, Any]) -> bool:
    """Whether an option is refused, or reported as having no effect."""
    if task not in TASKS:
        return True
    try:
        options = TASKS[task].options.parse(compile_options)
        return bool(choose_target("cpu").check(options, list(compile_options)))
    except OptionError:
        return True


def _folder(source: ModelSource) -> Path | None:
    """The folder of a checkpoint on this machine: itself, or the Hub's newest snapshot."""
    path = Path(source.name).expanduser()
    if path.exists() or source.load_options.get("gguf_file") is not None:
        return path if (path / "config.json").is_file() else None
    from huggingface_hub import snapshot_download

    names = ("revision", "cache_dir", "token", "local_files_only")
    options = {name: source.load_options[name] for name in names if source.load_options.get(name) is not None}
    try:
        return Path(snapshot_download(source.name, allow_patterns=["config.json"], **options))
    except (OSError, ValueError):  # the Hub's errors are OSErrors; loading the model says what is wrong
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _modules() -> list[tuple[str, int, int]]:
    """The library's files, so that a changed checkout makes its packages again."""
    root = Path(__file__).parents[1]
    stats = {path: os.stat(path) for path in sorted(root.rglob("*.py"))}
    return [(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
