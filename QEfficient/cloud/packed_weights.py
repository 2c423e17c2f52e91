"""What each target makes of a quantised checkpoint's weights, by the headers of its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from QEfficient.exporter import transforms
from QEfficient.exporter.transforms.pack_linears import Layout, packed_layouts
from QEfficient.targets import TARGETS, Target
from QEfficient.transformers.checkpoint.from_checkpoint import weight_source
from QEfficient.transformers.checkpoint.load import load_skeleton


def weights_on_targets(auto_class: Any, folder: Path, trust_remote_code: bool) -> dict[str, dict[str, int]]:
    """For each target: ``weights_bytes``, and how many weights stay packed and are expanded.

    Args:
        auto_class: loads the model.
        folder: the checkpoint's, with weights.
        trust_remote_code: as for loading.

    Raises:
        CorruptCheckpoint: parts of a weight are missing, or do not fit each other.
    """
    model = load_skeleton(auto_class, folder, trust_remote_code)
    source = weight_source(model)
    dense = {name: source.tensors[name].num_bytes for name, _ in model.named_parameters()}
    layouts = {name: layout for name, layout in packed_layouts(source).items() if name in dense}
    return {name: _on_target(dense, layouts, target) for name, target in TARGETS.items()}


def _on_target(dense: Mapping[str, int], layouts: Mapping[str, Layout | None], target: Target) -> dict[str, int]:
    takers = [_taker(transform) for transform in target.graph_transforms]
    packed = {
        name: layout.num_bytes
        for name, layout in layouts.items()
        if layout is not None and any(takes(layout) for takes in takers)
    }
    return {
        "weights_bytes": sum({**dense, **packed}.values()),
        "num_packed": len(packed),
        "num_expanded": len(layouts) - len(packed),
    }


def _taker(transform: str) -> Callable[[Layout], bool]:
    """Which layouts a transform keeps packed."""
    taker: Callable[[Layout], bool] = getattr(import_module(f"{transforms.__name__}.{transform}"), "takes", _nothing)
    return taker


def _nothing(layout: Layout) -> bool:
    return False
