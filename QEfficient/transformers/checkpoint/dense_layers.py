"""Modules that sentence-transformers and PyLate put after a model, each in a folder of the checkpoint: dense layers.

Those of PyLate come right after the model: every token gets a vector.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.files import contained, read_json, shortened

_MODULES, _CONFIG, _WEIGHTS = "modules.json", "config.json", "model.safetensors"
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
_ATTRIBUTE = "token_vectors"
"""Of the model that the layers are put after."""


def module_files(folder: Path) -> list[str]:
    """The files of the modules after the model.

    Raises:
        CorruptCheckpoint: ``modules.json`` is not a list of modules.
        UnsafeCheckpoint: it is outside of the folder.
    """
    return [f"{path}/{name}" for path, _ in module_kinds(folder)[1:] for name in (_CONFIG, _WEIGHTS)]


def module_kinds(folder: Path) -> list[tuple[str, str]]:
    """The folder of each module and the name of its class, in order; none without a ``modules.json``. Raises as
    :func:`module_files`."""
    path = contained(folder, _MODULES)
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        return [(str(module["path"]), str(module["type"]).rpartition(".")[2]) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptCheckpoint(f"{path} is not a list of modules, each with a path and a type: {error}.") from error


def _paths(folder: Path) -> list[str]:
    kinds = module_kinds(folder)
    paths = []
    for name, kind in kinds[1:]:
        if kind != "Dense":
            break
        paths.append(name)
    # sentence-transformers puts such layers after a pooling: they are for texts then, not for tokens.
    return paths if all(kind in ("Dense", "Normalize") for _, kind in kinds[1:]) else []


def attach_dense_layers(model: nn.Module, folder: Path) -> bool:
    """Let ``model`` give the layers' vectors, of length 1, in place of its states; False where there are none.

    Raises:
        CorruptCheckpoint: a layer's files are damaged, or do not fit the model.
        UnsupportedModel: a layer does something else than a product and an activation.
    """
    paths = _paths(folder)
    if not paths:
        return False
    setattr(model, _ATTRIBUTE, nn.Sequential(*(layer for path in paths for layer in dense_layers(folder, path))))
    model.register_forward_hook(_give_vectors)
    return True


def _give_vectors(model: nn.Module, args: Any, output: Any) -> Any:
    vectors = getattr(model, _ATTRIBUTE)(output.last_hidden_state.float())
    output.last_hidden_state = nn.functional.normalize(vectors, dim=-1)
    return output


def dense_layers(folder: Path, path: str, usual: str = "Identity") -> list[nn.Module]:
    """The product and the activation of a layer; ``usual`` is the activation where its config has none. Raises as
    :func:`attach_dense_layers`."""
    where = contained(folder, f"{path}/{_CONFIG}")
    config = read_json(where)
    activation = str(config.get("activation_function", usual)).rpartition(".")[2]
    if activation not in _ACTIVATIONS or config.get("use_residual"):
        residual = " and a residual" if config.get("use_residual") else ""
        raise UnsupportedModel(
            f"{where} has the activation {shortened(activation)}{residual}; a layer after the model may have "
            f"{', '.join(_ACTIVATIONS)}, and no residual."
        )
    weights = contained(folder, f"{path}/{_WEIGHTS}")
    if not weights.is_file():
        raise CorruptCheckpoint(f"{weights} is missing: download the checkpoint again, as safetensors.")
    try:
        tensors = load_file(weights)
        weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{weights} holds no layer: {' '.join(str(error).split())[:200]}.") from error
    return [linear.requires_grad_(False), getattr(nn, activation)()]
