"""A cache of model descriptions by the config's digest: importing PyTorch takes longer than everything else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.store.digests import file_digest
from QEfficient.store.notes import read_note, write_note
from QEfficient.store.source_version import source_version
from QEfficient.targets import TARGETS

if TYPE_CHECKING:
    from QEfficient.cloud.model_args import ModelSource

_KIND = "descriptions"
_FORMAT = 2
"""Of a stored description."""


def describe_model(source: ModelSource, lens: Mapping[str, int]) -> dict[str, Any]:
    """Describe a model. What depends on this machine is determined each time, the rest is cached.

    Args:
        source: the model. Its config and code are read, and the sizes of weights that are on this machine.
        lens: ``ctx_len`` and ``encoder_ctx_len``, for the size of a slot.

    Raises:
        CheckpointNotFound: no such model id or folder.
        UnsafeCheckpoint: it needs code of its repository, which is not allowed.
        CorruptCheckpoint: a file is damaged, or the config gives sizes that no model or not its weights have.
        UnsupportedModel: transformers or this library does not support it.
    """
    from QEfficient.transformers.checkpoint.config import open_config
    from QEfficient.transformers.checkpoint.files import quantization
    from QEfficient.transformers.checkpoint.loader_errors import loader_errors
    from QEfficient.transformers.checkpoint.weight_files import local_weight_files

    opened = open_config(source.name, **source.load_options)
    with loader_errors(opened.folder, "the weights"):
        files = local_weight_files(opened.folder)
        if files is not None:
            files.check_config(opened.config)
    method = quantization(opened.config)
    ingredients = _ingredients(opened.folder, opened.config, source, lens)
    if method is not None and files is not None:
        ingredients["weights"] = [file.identity for file in files.files()]
    description = read_note(_KIND, ingredients) if opened.is_self_contained else None
    if description is None or "targets" not in description:
        from QEfficient.cloud.description import describe

        description = describe(opened, source.load_options, lens, "weights" in ingredients)
        if opened.is_self_contained:
            write_note(_KIND, ingredients, description)
    description["quantization"] = method
    if files is not None:
        description["weights_bytes"], description["dtypes"] = files.num_bytes, files.dtypes
    elif description["quantization"] is not None:
        description["weights_bytes"] = None  # the config does not say which weights are quantised
    for name, target in description["targets"].items():
        target["unavailable"] = TARGETS[name].why_unavailable()
    return description


def _ingredients(folder: Path, config: dict[str, Any], source: ModelSource, lens: Mapping[str, int]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "config": config,
        "code": {path.name: file_digest(path) for path in sorted(folder.glob("*.py"))} if "auto_map" in config else {},
        "pooling": source.load_options.get("pooling"),
        "lens": dict(lens),
        "targets": {name: list(target.lowerings) for name, target in TARGETS.items()},
        "library": source_version(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
