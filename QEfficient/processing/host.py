"""What a package's model computes on the host: its code around the compiled parts, without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from QEfficient.errors import CorruptArtifact, OptionError, QEffError
from QEfficient.processing.media import (
    VARLEN,
    called_with,
    encode,
    encoder_inputs,
    expanded,
    feature_rows,
    rebuilt,
    replaced,
)
from QEfficient.processing.precomputed import precomputed
from QEfficient.processing.rope import rope_index
from QEfficient.transformers.patches import functions_replaced

PARAMETERS = "host_parameters.safetensors"
Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""Runs a part: its inputs by name to its outputs in order."""


class HostModel:
    """The model of a package without the weights of its parts.

    Args:
        folder: with ``config.json``, and the parameters that the code between the parts reads.
        auto_class: loads such a model, as transformers' auto classes do; None: that of models that see.

    Raises:
        CorruptArtifact: it holds no such model.
    """

    def __init__(self, folder: Path, auto_class: type[Any] | None = None):
        from transformers import AutoConfig, AutoModelForMultimodalLM

        from QEfficient.transformers.checkpoint.meta_model import outline
        from QEfficient.transformers.lowering.apply import masked_as

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CorruptArtifact(f"{folder} has no config of a model: {' '.join(str(error).split())[:200]}") from error
        config.dtype = torch.float32
        self.model = masked_as(outline(auto_class or AutoModelForMultimodalLM, config, folder), "retained")
        _stand_in(self.model)
        path = folder / PARAMETERS
        for name, value in (load_file(path) if path.is_file() else {}).items():
            owner, _, attribute = name.rpartition(".")
            setattr(self.model.base_model.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))

    def coordinates(self, batch: Mapping[str, Any]) -> np.ndarray | None:
        """Coordinates ``[P, B, S]`` of a batch's tokens; None for a model whose tokens have none."""
        with _refusals(self.model):
            index = rope_index(self.model, _tensors(batch))
        return None if index is None else index.numpy()

    def encoder_inputs(self, modality: str, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the encoder of ``modality`` takes of a processor's output."""
        return encoder_inputs(self.model, modality, _tensors(batch))

    def encode(
        self, modality: str, inputs: Mapping[str, Any], parts: Mapping[str, tuple[Run, Any]]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Features ``[V, D]`` and those by layer, ``[K, V, D]``.

        Args:
            modality: "image" and so on.
            inputs: of :meth:`encoder_inputs`.
            parts: path of a module -> what runs in its place, and the form of its outputs.
        """
        base = self.model.base_model
        functions = {path: self._call(base.get_submodule(path), run, form) for path, (run, form) in parts.items()}
        with _refusals(self.model), replaced(base, functions), functions_replaced(self.model, VARLEN):
            rows, layers = feature_rows(encode(self.model, modality, inputs))
        deepstack = torch.stack(layers).float().numpy() if layers else None
        return None if rows is None else rows.float().numpy(), deepstack

    @staticmethod
    def _call(module: nn.Module, run: Run, form: Any) -> Callable[..., Any]:
        usual = module.forward  # replaced when it is called

        def forward(*args: Any, **kwargs: Any) -> Any:
            arguments = expanded(precomputed(module, called_with(usual, args, kwargs)))
            tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
            leaves = [torch.from_numpy(np.array(leaf)) for leaf in run({n: v.numpy() for n, v in tensors.items()})]
            return rebuilt(form, leaves)

        return forward


@contextmanager
def _refusals(model: nn.Module) -> Iterator[None]:
    """What transformers' code raises over a processor's output, as one error."""
    try:
        yield
    except QEffError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        said = " ".join(str(error).split())[:300]
        raise OptionError(
            f"The processor's output is not what {type(model).__name__} takes: {type(error).__name__}: {said}. Pass it "
            "as the model's processor made it."
        ) from error


def _tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's output, of NumPy or torch, as torch."""
    return {name: torch.from_numpy(each) if isinstance(each, np.ndarray) else each for name, each in batch.items()}


def _stand_in(model: nn.Module) -> None:
    """Give the weights of ``model``, of which no byte is there, a device that its code can name, and NaN as values."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta and parameter.is_floating_point():
                value = torch.full((), torch.nan, dtype=parameter.dtype).expand(parameter.shape)
                setattr(module, name, nn.Parameter(value, requires_grad=False))
