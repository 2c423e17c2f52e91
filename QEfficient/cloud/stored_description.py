"""A model's description, kept by its config's digest: importing PyTorch takes longer than everything else."""

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
    from QEfficient.cloud.model_args import Card

_KIND = "descriptions"
_FORMAT = 1
"""Of a stored description."""


def describe_card(card: Card, lens: Mapping[str, int]) -> dict[str, Any]:
    """What a card is made of. What depends on this machine is found out each time, the rest once.

    Args:
        card: a Hub card or a folder, of which config and code are read, and the sizes of weights that are here.
        lens: ``ctx_len`` and ``encoder_ctx_len``, for the size of a slot.

    Raises:
        CheckpointNotFound: no such card or folder.
        UnsafeCheckpoint: it brings code that nobody allowed.
        UnsupportedModel: transformers or this library has nothing for it.
    """
    from QEfficient.transformers.checkpoint.files import open_card, quantization, weights_size

    opened = open_card(card.name, **card.load_options)
    ingredients = _ingredients(opened.folder, opened.config, card, lens)
    found = read_note(_KIND, ingredients) if opened.is_self_contained else None
    if found is None or "targets" not in found:
        from QEfficient.cloud.description import describe

        found = describe(opened, card.load_options, lens)
        if opened.is_self_contained:
            write_note(_KIND, ingredients, found)
    found["quantization"] = quantization(opened.config)
    if (size := weights_size(opened.folder)) is not None:
        found["weights_bytes"], found["dtypes"] = size
    elif found["quantization"] is not None:
        found["weights_bytes"] = None  # the config does not say which weights are quantised
    for name, target in found["targets"].items():
        target["unavailable"] = TARGETS[name].why_unavailable()
    return found


def _ingredients(folder: Path, config: dict[str, Any], card: Card, lens: Mapping[str, int]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "config": config,
        "code": {path.name: file_digest(path) for path in sorted(folder.glob("*.py"))} if "auto_map" in config else {},
        "pooling": card.load_options.get("pooling"),
        "lens": dict(lens),
        "targets": {name: list(target.lowerings) for name, target in TARGETS.items()},
        "library": source_version(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
