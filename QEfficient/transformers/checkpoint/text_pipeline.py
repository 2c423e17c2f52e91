"""What sentence-transformers puts after a model, read from the folder: a pooling, layers, a normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.dense_layers import dense_layers, module_kinds
from QEfficient.transformers.checkpoint.files import contained, read_json, shortened

_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""A switch for each mode, which versions before 5.4 write, in the order that the results are put together."""
_USUAL_ACTIVATION = "torch.nn.modules.activation.Tanh"
_ATTRIBUTE = "text_layers"
"""Of the model that the layers are put after."""


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors, dim=-1)


@dataclass(frozen=True)
class TextPipeline:
    """How the states of a text become its vector."""

    modes: tuple[str, ...]
    """Poolings; the results of several are put together."""
    pools_prompt: bool
    """Whether the tokens of a prompt count in the pooling."""
    layers: tuple[nn.Module, ...]
    """After the pooling, in order."""

    def described(self) -> str:
        """In words, for logs and keys."""
        layers = (str(layer) if isinstance(layer, nn.Linear) else f"{type(layer).__name__}()" for layer in self.layers)
        return " -> ".join([f"pooling {' + '.join(self.modes)}", *layers])


def read_text_pipeline(folder: Path) -> TextPipeline | None:
    """The pipeline in ``modules.json``; None where it has no pooling, or there is no such file.

    Raises:
        CorruptCheckpoint: a file is damaged.
        UnsafeCheckpoint: it is outside of the folder.
        UnsupportedModel: a module does something else.
    """
    modules = module_kinds(folder)
    if len(modules) < 2:
        return None
    (first, kind), (pooling, second), *rest = modules
    kinds = [kind for _, kind in modules]
    if kind != "Transformer" or first not in ("", ".") or second != "Pooling" or {*kinds[2:]} - {"Dense", "Normalize"}:
        raise UnsupportedModel(
            f"{folder / 'modules.json'} has the modules {shortened(', '.join(kinds))}; vectors of texts are made by a "
            "Transformer in the folder itself, a Pooling, and any of Dense and Normalize. Pass pooling=None for hidden "
            "states, or a pooling."
        )
    modes, pools_prompt = _pooling(contained(folder, f"{pooling}/config.json"))
    layers: list[nn.Module] = []
    for path, name in rest:
        layers += [Normalize()] if name == "Normalize" else dense_layers(folder, path, _USUAL_ACTIVATION)
    return TextPipeline(modes, pools_prompt, tuple(layers))


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    config = read_json(path)
    modes: Any = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else modes
    if not isinstance(modes, list | tuple) or not modes or {*map(str, modes)} - {*_MODES}:
        raise CorruptCheckpoint(f"{path}: pooling_mode must be of {', '.join(_MODES)}, got {shortened(modes)}.")
    return tuple(modes), config.get("include_prompt") is not False


def attach_text_layers(model: nn.Module, pipeline: TextPipeline) -> None:
    """Keep the layers with ``model``, so that they are exported with it."""
    setattr(model, _ATTRIBUTE, nn.Sequential(*pipeline.layers))


def through_text_layers(model: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """``vectors [B, D]`` after the layers of :func:`attach_text_layers`; as they are where there are none."""
    layers: nn.Module | None = getattr(model, _ATTRIBUTE, None)
    return vectors if layers is None else layers(vectors)
