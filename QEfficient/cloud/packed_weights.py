"""What each target makes of a quantised checkpoint's weights, by the headers of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from QEfficient.exporter import transforms
from QEfficient.exporter.packed_layout import LayoutOf, packed_forms
from QEfficient.targets import TARGETS, Target
from QEfficient.transformers.checkpoint.from_checkpoint import weight_source
from QEfficient.transformers.checkpoint.load import load_skeleton
from QEfficient.transformers.checkpoint.packed import Packed


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
    looked_up, multiplied = (_weights_of(model, kind) for kind in (nn.Embedding, nn.Linear))
    forms = {name: form for name, form in packed_forms(source).items() if name in dense}
    uses = _Uses(dense, forms, looked_up, looked_up - multiplied)
    return {name: _on_target(uses, target) for name, target in TARGETS.items()}


@dataclass(frozen=True)
class _Uses:
    """Names of a model's weights."""

    num_bytes: Mapping[str, int]
    """Of all, once they are expanded."""
    quantised: Mapping[str, Packed]
    looked_up: Collection[str]
    """Embeddings, whose rows have to be there expanded."""
    only_looked_up: Collection[str]


def _weights_of(model: nn.Module, kind: type[nn.Module]) -> set[str]:
    weights = {id(module.weight) for module in model.modules() if isinstance(module, kind)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in weights}


def _on_target(uses: _Uses, target: Target) -> dict[str, int]:
    modules = [import_module(f"{transforms.__name__}.{transform}") for transform in target.graph_transforms]
    layouts_of: list[LayoutOf] = [module.layout_of for module in modules if hasattr(module, "layout_of")]
    packed = {
        name: layout.num_bytes
        for name, form in uses.quantised.items()
        for layout_of in layouts_of
        if name not in uses.only_looked_up and (layout := layout_of(form)) is not None
    }
    tied = sum(uses.num_bytes[name] for name in packed if name in uses.looked_up)
    return {
        "weights_bytes": sum({**uses.num_bytes, **packed}.values()) + tied,
        "num_packed": len(packed),
        "num_expanded": len(uses.quantised) - len(packed),
    }
