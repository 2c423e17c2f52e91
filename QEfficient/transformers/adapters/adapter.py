"""LoRA adapters as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint, UnsupportedModel
from QEfficient.store.digests import digest, hash_file
from QEfficient.transformers.adapters.config import CONFIG_FILE, LoraConfig, read_config
from QEfficient.transformers.checkpoint.files import checked_name, contained, local_folder
from QEfficient.transformers.checkpoint.load import download
from QEfficient.transformers.checkpoint.packed import Dense, Stored
from QEfficient.transformers.checkpoint.unread import Made, Unread
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES, WeightFile, open_weight_file

aten = torch.ops.aten

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
"""What PEFT's names of weights begin with."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, eq=False, slots=True)
class LoraUpdate:
    """What an adapter adds to a linear layer's output: ``scale * b @ a @ x``."""

    a: Stored
    """``[rank, in]``."""
    b: Stored
    """``[out, rank]``."""
    scale: float

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.a.tensor.shape[0]

    @property
    def in_features(self) -> int:
        """Of the layer."""
        return self.a.tensor.shape[1]

    @property
    def out_features(self) -> int:
        """Of the layer."""
        return self.b.tensor.shape[0]

    def down(self) -> Unread:
        """``a`` in float32."""
        return _float32(self.a)

    def up(self) -> Unread:
        """``scale * b`` in float32."""
        return Made(aten.mul.Scalar, (_float32(self.b), self.scale), {}, 0, Dense(self.b.tensor.shape, torch.float32))


def _float32(stored: Stored) -> Unread:
    if stored.tensor.dtype == torch.float32:
        return stored
    return cast(stored, torch.float32)


def cast(unread: Unread, dtype: torch.dtype) -> Unread:
    """A tensor in another dtype."""
    return Made(aten._to_copy.default, (unread,), {"dtype": dtype}, 0, Dense(unread.tensor.shape, dtype))


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """A LoRA adapter whose weights are still in its file."""

    name: str
    folder: Path
    config: LoraConfig
    updates: Mapping[str, LoraUpdate]
    """By the path of the layer in the base model."""
    copies: Mapping[str, Stored]
    """Weights of the base model that PEFT put beside them, by their names in it: those of embeddings."""
    digest: str
    """Of its files' contents."""


def read_adapter(name: str, folder: Path) -> LoraAdapter:
    """The adapter in ``folder``, which is called ``name``.

    Raises:
        UnsafeCheckpoint: its weights are pickled, or a file is a link out of the folder.
        CheckpointNotFound: a file is missing.
        CorruptCheckpoint: a file is damaged, or the weights do not fit the config.
        UnsupportedModel: it is no LoRA adapter, or uses something that is not read.
    """
    _check_files(folder)
    config = read_config(folder)
    path = contained(folder, WEIGHTS_FILE)
    file = open_weight_file(path)
    matrices = [key for key in file.header.tensors if key.endswith((_A, _B))]
    copies = {_base_name(file, key): _stored(file, key) for key in file.header.tensors.keys() - {*matrices}}
    updates = dict(_updates(file, config, matrices))
    if not updates:
        raise CorruptCheckpoint(f"{path} has no LoRA weights (names that end in {_A}). Download the adapter again.")
    contents = {each: hash_file(folder / each)[0] for each in (CONFIG_FILE, WEIGHTS_FILE)}
    return LoraAdapter(name, folder, config, updates, copies, digest(contents))


def _check_files(folder: Path) -> None:
    if not contained(folder, CONFIG_FILE).is_file():
        raise CheckpointNotFound(f"{folder} has no {CONFIG_FILE}, so it is not a PEFT adapter.")
    if contained(folder, WEIGHTS_FILE).exists():
        return
    if (folder / _PICKLED).exists():
        raise UnsafeCheckpoint(
            f"The weights of the adapter {folder} are pickled ({_PICKLED}); unpickling runs code, so they are never "
            "loaded. Convert them in a place that you trust: load the adapter with PEFT there and call "
            "save_pretrained()."
        )
    raise CheckpointNotFound(f"{folder} has {CONFIG_FILE} but no {WEIGHTS_FILE}.")


def resolve_adapter(name: str | os.PathLike[str], **hub_options: str | bool | os.PathLike[str] | None) -> Path:
    """The folder of an adapter: itself if it is one, else its snapshot from the Hub.

    Raises:
        CheckpointNotFound: there is no such folder or repository.
    """
    text = checked_name(name)
    folder = local_folder(text)
    if folder.is_dir():
        return folder
    options = {key: value for key, value in hub_options.items() if value is not None}
    return download(text, options, [CONFIG_FILE, WEIGHTS_FILE])


def _base_name(file: WeightFile, key: str) -> str:
    """The name in the base model of a weight that is no LoRA matrix."""
    if not key.startswith(PREFIX) or "lora_" in key:
        raise UnsupportedModel(
            f"{file.path} holds '{key}', and only the LoRA matrices of linear layers are read ({PREFIX}LAYER{_A} and "
            f"{_B}). Merge the adapter with PEFT's merge_and_unload(), save the model and load that."
        )
    return key.removeprefix(PREFIX).replace(".base_layer.", ".")


def _updates(file: WeightFile, config: LoraConfig, keys: Iterable[str]) -> Iterator[tuple[str, LoraUpdate]]:
    """The layers' updates, each of which has both of its matrices, of one rank."""
    for key in sorted(keys):
        module = key.removeprefix(PREFIX).removesuffix(_A).removesuffix(_B)
        pair = [f"{PREFIX}{module}{_A}", f"{PREFIX}{module}{_B}"]
        if missing := {*pair, key} - file.header.tensors.keys() or {key} - {*pair}:
            raise CorruptCheckpoint(
                f"{file.path} has '{key}' and no '{min(missing)}': expected {PREFIX}LAYER{_A} and {_B} of each layer. "
                "Download the adapter again."
            )
        if key == pair[0]:
            yield module, _update(file, config, module)


def _update(file: WeightFile, config: LoraConfig, module: str) -> LoraUpdate:
    a, b = (_stored(file, f"{PREFIX}{module}{suffix}") for suffix in (_A, _B))
    rank = config.rank_of(module)
    if not (len(a.tensor.shape) == len(b.tensor.shape) == 2 and a.tensor.shape[0] == b.tensor.shape[1] == rank):
        raise CorruptCheckpoint(
            f"{file.path}: '{module}' has lora_A {a.tensor.shape} and lora_B {b.tensor.shape}, expected ({rank}, in) "
            f"and (out, {rank}) by {CONFIG_FILE}. Download the adapter again."
        )
    return LoraUpdate(a, b, config.scale_of(module))


def _stored(file: WeightFile, name: str) -> Stored:
    entry = file.header.tensors[name]
    dtype = getattr(torch, TORCH_NAMES.get(entry.dtype, ""), None)
    if not entry.is_float or dtype is None:
        raise CorruptCheckpoint(
            f"{file.path}: '{name}' is stored as {entry.dtype}, expected real numbers. Download the adapter again."
        )
    return Stored(file, name, file.header.data_offset + entry.begin, Dense(entry.shape, dtype))
