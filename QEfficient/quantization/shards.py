"""Safetensors files whose tensors are written one by one, in any order: the header needs only their sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from QEfficient.transformers.checkpoint.packed import Dense
from QEfficient.transformers.checkpoint.source import as_bytes
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES

_NAMES = {getattr(torch, name): safetensors for safetensors, name in TORCH_NAMES.items()}


class ShardWriter:
    """One file.

    Args:
        path: to create.
        tensors: all that will be written, by name.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Dense]):
        self._tensors = dict(tensors)
        header, self._offsets = _header(tensors)
        self._file = path.open("xb")
        self._file.write(header)

    def write(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Write a tensor, as pieces that are flat and in order."""
        self._file.seek(self._offsets.pop(name))
        num_bytes = 0
        for piece in pieces:
            num_bytes += self._file.write(as_bytes(piece))
        if num_bytes != self._tensors[name].num_bytes:
            raise AssertionError(f"{name}: {num_bytes} bytes for {self._tensors[name]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None and self._offsets:
            raise AssertionError(f"{self._file.name} lacks {', '.join(self._offsets)}")


def _header(tensors: Mapping[str, Dense]) -> tuple[bytes, dict[str, int]]:
    """The header, and where each tensor begins in the file: the largest items first, so that all are aligned."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins: dict[str, int] = {}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        begins[name], end = end, end + tensor.num_bytes
        offsets = [begins[name], end]
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def shard_names(groups: list[list[str]]) -> list[str]:
    """Names of the weight files, as transformers names them."""
    if len(groups) == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]


def in_shards(sizes: Mapping[str, int], most_bytes: int) -> list[list[str]]:
    """Names in order, in groups of at most ``most_bytes``; a larger one is alone."""
    groups: list[list[str]] = [[]]
    num_bytes = 0
    for name, size in sizes.items():
        if groups[-1] and num_bytes + size > most_bytes:
            groups.append([])
            num_bytes = 0
        groups[-1].append(name)
        num_bytes += size
    return groups


def write_index(folder: Path, shards: Mapping[str, Iterable[str]], total_bytes: int) -> None:
    """The index of several files; ``shards``: names of tensors by file."""
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2), encoding="utf-8")
