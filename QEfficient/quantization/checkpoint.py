"""Writes the folder of a quantised checkpoint from that of the dense one, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.progress import counted
from QEfficient.quantization.layout import part_sizes, parts_of
from QEfficient.quantization.rounding import Rounded
from QEfficient.quantization.schemes import Scheme
from QEfficient.quantization.shards import ShardWriter, in_shards, shard_names, write_index
from QEfficient.store.files import check_free_space
from QEfficient.transformers.checkpoint.files import READ, is_any, read_config
from QEfficient.transformers.checkpoint.packed import Dense, Stored
from QEfficient.transformers.checkpoint.pieces import pieces
from QEfficient.transformers.checkpoint.source import split
from QEfficient.transformers.checkpoint.unread import Reader
from QEfficient.transformers.checkpoint.weight_files import WeightFiles
from QEfficient.transformers.quantizers.auto import stored_tensors

Round = Callable[[str, torch.Tensor], Rounded]
"""``(module, weight)`` to the weight's numbers."""


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint is made of."""

    scheme: Scheme
    round: Round
    chosen: Mapping[str, str]
    """Modules to quantise, by the names of the stored weights."""
    replaced: Mapping[str, torch.Tensor]
    """Other stored tensors that change, by their names."""
    ignored: list[str]
    """Linear modules that stay."""
    max_shard_bytes: int


@dataclass(frozen=True)
class _Item:
    """A stored tensor and what is written for it."""

    stored: Stored
    module: str | None
    """Where it is quantised."""
    written: Mapping[str, Dense]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.written.values())


def write_checkpoint(files: WeightFiles, folder: Path, recipe: Recipe) -> int:
    """Write the checkpoint of ``files`` once more; in memory there is about one tensor at a time.

    Args:
        files: of the dense checkpoint.
        folder: an empty one.
        recipe: what changes.

    Returns:
        Bytes of all tensors.

    Raises:
        CorruptCheckpoint: a weight is not finite, or a file has changed.
        UnsupportedModel: a tensor cannot be copied.
        StorageError: the disk is full.
    """
    items = {name: _item(stored, recipe) for name, stored in stored_tensors(files)}
    if len(items) != files.num_tensors:
        raise UnsupportedModel(f"{files.folder}: a tensor has a dtype that torch does not have, or is stored twice.")
    total_bytes = sum(item.num_bytes for item in items.values())
    check_free_space(folder, total_bytes, "the quantised weights")
    groups = in_shards({name: item.num_bytes for name, item in items.items()}, recipe.max_shard_bytes)
    shards = dict(zip(shard_names(groups), groups, strict=True))
    with counted("Quantizing", f"{len(recipe.chosen)} weights", len(items)) as advance:
        for file, names in shards.items():
            tensors = {part: size for name in names for part, size in items[name].written.items()}
            with ShardWriter(folder / file, tensors) as writer:
                for name in names:
                    _write(writer, items[name], recipe)
                    advance()
    if len(shards) > 1:
        written = {file: [part for name in names for part in items[name].written] for file, names in shards.items()}
        write_index(folder, written, total_bytes)
    _write_side_files(files.folder, folder, recipe)
    return total_bytes


def _item(stored: Stored, recipe: Recipe) -> _Item:
    module, tensor = recipe.chosen.get(stored.name), stored.tensor
    if module is None:
        return _Item(stored, None, {stored.name: tensor})
    base = stored.name.removesuffix("weight")
    num_rows, num_columns = tensor.shape
    sizes = part_sizes((num_rows, num_columns), recipe.scheme, tensor.dtype)
    return _Item(stored, module, {base + part: size for part, size in sizes.items()})


def _write(writer: ShardWriter, item: _Item, recipe: Recipe) -> None:
    stored = item.stored
    stored.file.check_unchanged()
    if item.module is None:
        kept = recipe.replaced.get(stored.name)
        writer.write(stored.name, pieces(stored, Reader()) if kept is None else split(kept.to(stored.tensor.dtype)))
        return
    weight = Reader().whole(stored)
    if not weight.isfinite().all():
        raise CorruptCheckpoint(
            f"{stored.file.path}: '{stored.name}' holds NaN or infinity, which no number can stand for. Download the "
            "checkpoint again."
        )
    base = stored.name.removesuffix("weight")
    for part, tensor in parts_of(recipe.round(item.module, weight)).items():
        writer.write(base + part, split(tensor.contiguous()))


def _write_side_files(source: Path, folder: Path, recipe: Recipe) -> None:
    """The config, and the tokenizer and all else that is read beside the weights."""
    for path in sorted(source.iterdir()):
        is_weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if is_any(path.name, (*READ, "tokenizer*")) and path.is_file() and not is_weights:
            shutil.copyfile(path, folder / path.name)
    config: dict[str, Any] = {**read_config(source), "quantization_config": recipe.scheme.section(recipe.ignored)}
    if recipe.scheme.has_codes:
        # compressed-tensors makes bfloat16 of FP4 and FP6 whatever the model is, and a product needs equal types.
        config = {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
