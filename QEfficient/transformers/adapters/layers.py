"""Adapters on a base model: which layers they change, the matrices for its graphs, and the merged model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.adapters.adapter import LoraAdapter, LoraUpdate, aten, cast
from QEfficient.transformers.checkpoint.from_checkpoint import weight_source
from QEfficient.transformers.checkpoint.packed import Dense, Stored
from QEfficient.transformers.checkpoint.source import WeightSource
from QEfficient.transformers.checkpoint.unread import Made, Reader, Unread, UnreadParameter, evaluate
from QEfficient.transformers.lowering.adapters import SelectedLora, SuppliedLora, shared_copy, with_lora
from QEfficient.transformers.tasks.lm_head import output_embeddings

Shapes = Mapping[str, tuple[int, int, int]]
"""By the path of each layer with an adapter: its input features, the rank, its output features."""


def check_fits(model: nn.Module, adapter: LoraAdapter) -> None:
    """
    Raises:
        CorruptCheckpoint: the model has no such layer, or one of another size; names both.
        UnsupportedModel: the adapter changes a layer that is not linear.
    """
    modules = dict(model.named_modules())
    for path, update in adapter.updates.items():
        layer = modules.get(path)
        name = f"The adapter '{adapter.name}' ({adapter.folder})"
        if layer is None:
            raise CorruptCheckpoint(
                f"{name} changes '{path}', and {type(model).__name__} has no such layer. It was trained for "
                f"{adapter.config.base_model or 'another model'}."
            )
        if not _is_linear(layer):
            raise UnsupportedModel(
                f"{name} changes '{path}', a {type(layer).__name__}, and only linear layers are supported."
            )
        expected = _features(layer)
        if (update.in_features, update.out_features) != expected:
            raise CorruptCheckpoint(
                f"{name} is for '{path}' from {update.in_features} to {update.out_features} features, and that of "
                f"this {type(model).__name__} goes from {expected[0]} to {expected[1]}. It was trained for "
                f"{adapter.config.base_model or 'another model'}."
            )
    _check_copies(model, adapter)


def _check_copies(model: nn.Module, adapter: LoraAdapter) -> None:
    """Refuse weights of the base model that differ from those that it has."""
    source = weight_source(model)
    for name, copied in adapter.copies.items():
        stored = source.tensors.get(name)
        if stored is None or stored.shape != copied.tensor.shape or not _is_copy(source, name, copied):
            raise UnsupportedModel(
                f"The adapter '{adapter.name}' ({adapter.folder}) brings '{name}' {copied.tensor.shape}, which differs "
                f"from that of this {type(model).__name__}: only linear layers' LoRA matrices are read. Merge it with "
                "PEFT's merge_and_unload(), save the model and load that."
            )


def _is_copy(source: WeightSource, name: str, copied: Stored) -> bool:
    reader, begin = Reader(), 0
    for piece in source.read(name):
        end = begin + piece.numel()
        if not torch.equal(reader.elements(copied, begin, end), piece.to(copied.tensor.dtype)):
            return False
        begin = end
    return True


def _is_linear(layer: nn.Module) -> bool:
    """Whether it multiplies by its weight, as no subclass of another ``forward`` need do."""
    return isinstance(layer, Conv1D) or (isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward)


def _features(layer: nn.Module) -> tuple[int, int]:
    """Input and output features."""
    weight: Any = layer.weight
    rows, columns = weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def with_selected(model: nn.Module, adapters: Sequence[LoraAdapter]) -> Any:
    """A copy of ``model`` with all adapters, of which each row selects one by its number, from 1 on."""
    head = output_embeddings(model)
    paths = sorted({path for adapter in adapters for path in adapter.updates})
    return with_lora(model, {path: _selected(adapters, path, model.get_submodule(path) is head) for path in paths})


def _selected(adapters: Sequence[LoraAdapter], path: str, is_head: bool) -> SelectedLora:
    numbered = [(number, each.updates[path]) for number, each in enumerate(adapters, 1) if path in each.updates]
    owners = [number for number, update in numbered for _ in range(update.rank)]
    first = numbered[0][1]
    down = _joined([update.down() for _, update in numbered], 0, (len(owners), first.in_features))
    up = _joined([update.up() for _, update in numbered], 1, (first.out_features, len(owners)))
    return SelectedLora(UnreadParameter(down), UnreadParameter(up), torch.tensor(owners), is_head)


def _joined(parts: list[Unread], axis: int, shape: tuple[int, int]) -> Unread:
    return Made(aten.cat.default, (parts, axis), {}, 0, Dense(shape, torch.float32))


def supplied_shapes(adapters: Sequence[LoraAdapter]) -> Shapes:
    """The shapes that have room for each of ``adapters``."""
    shapes: dict[str, tuple[int, int, int]] = {}
    for adapter in adapters:
        for path, update in adapter.updates.items():
            _, rank, _ = shapes.get(path, (0, 0, 0))
            shapes[path] = (update.in_features, max(rank, update.rank), update.out_features)
    return dict(sorted(shapes.items()))


def with_supplied(model: nn.Module, paths: Sequence[str]) -> Any:
    """A copy of ``model`` whose layers at ``paths`` take the matrices of one adapter from the graph's inputs."""
    return with_lora(model, {path: SuppliedLora(path) for path in paths})


def matrices(adapter: LoraAdapter, shapes: Shapes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """An adapter's two matrices for each layer of a graph, float32, padded with zeros up to the graph's rank."""
    reader = Reader()
    padded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path, (in_features, rank, out_features) in shapes.items():
        down, up = np.zeros((rank, in_features), np.float32), np.zeros((out_features, rank), np.float32)
        if (update := adapter.updates.get(path)) is not None:
            update.a.file.check_unchanged()
            down[: update.rank] = evaluate(update.down(), reader.whole).numpy()
            up[:, : update.rank] = evaluate(update.up(), reader.whole).numpy()
        padded[path] = (down, up)
    return padded


def merged(model: nn.Module, adapter: LoraAdapter) -> Any:
    """A copy of ``model`` with the adapter folded into its weights; it shares the parameters that do not change."""
    copied = shared_copy(model)
    for path, update in adapter.updates.items():
        layer = copied.get_submodule(path)
        layer.weight = _merged(layer.weight, update, isinstance(layer, Conv1D))
    return copied


def _merged(weight: nn.Parameter, update: LoraUpdate, is_transposed: bool) -> nn.Parameter:
    dense = Dense((update.out_features, update.in_features), torch.float32)
    change: Unread = Made(aten.mm.default, (update.up(), update.down()), {}, 0, dense)
    shape = tuple(weight.shape)
    if is_transposed:
        change = Made(aten.t.default, (change,), {}, 0, Dense(shape, torch.float32))
    if not isinstance(weight, UnreadParameter):
        value = weight.detach().float() + evaluate(change, Reader().whole)
        return nn.Parameter(value.to(weight.dtype), requires_grad=False)
    whole = (cast(weight.unread, torch.float32), change)
    return UnreadParameter(cast(Made(aten.add.Tensor, whole, {}, 0, Dense(shape, torch.float32)), weight.dtype))
