"""Reads a checkpoint's files without its weights: config, code, and the headers of safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from QEfficient.errors import CorruptCheckpoint, UnsafeCheckpoint
from QEfficient.store.digests import is_sha256

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"} | {
    f"{kind}{bits}": f"{'u' * (kind == 'U')}int{bits}" for kind in "IU" for bits in (8, 16, 32, 64)
}
"""torch's names of safetensors' dtypes."""
_MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""


def read_config(folder: Path) -> dict[str, Any]:
    """
    Raises:
        CorruptCheckpoint: ``config.json`` is no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise CorruptCheckpoint(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CorruptCheckpoint(f"{folder / 'config.json'} does not hold an object.")
    return config


def check_code(folder: Path, config: Mapping[str, Any], trust_remote_code: bool) -> None:
    """
    Raises:
        UnsafeCheckpoint: loading would run Python files without permission.
    """
    if config.get("auto_map") and not trust_remote_code:
        files = sorted({str(value).split(".")[0] + ".py" for value in config["auto_map"].values()})
        raise UnsafeCheckpoint(
            f"{folder} brings code ({', '.join(files)}), which loading would run. Read it, then pass "
            "trust_remote_code=True if you trust it."
        )


def quantization(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint's weights are quantised, or None."""
    for part in (config, config.get("text_config")):
        scheme = part.get("quantization_config", part.get("compression_config")) if isinstance(part, Mapping) else None
        if scheme:
            return str(scheme.get("quant_method", "unknown")) if isinstance(scheme, dict) else "unknown"
    return None


def identity(path: Path) -> dict[str, Any]:
    """What changes with a file's content: the sha256 that names it in the Hub's cache, or path, size and times."""
    real = path.resolve()
    status = real.stat()
    is_blob = path.is_symlink() and real.parent.name == "blobs" and real.parents[1].name.startswith("models--")
    if is_blob and is_sha256(real.name):
        return {"sha256": real.name, "size": status.st_size}
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {"path": str(real), "size": status.st_size, "inode": status.st_ino, **times}


def weights_size(folder: Path) -> tuple[int, list[str]] | None:
    """Bytes and dtypes of the weights in ``folder``, by the headers of its safetensors files; None without any.

    Raises:
        CorruptCheckpoint: a file is none of safetensors.
    """
    files = _weight_files(folder)
    tensors = [tensor for file in files for tensor in read_header(file).tensors.values()]
    if not tensors:
        return None
    size = sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors)
    return size, sorted({TORCH_NAMES.get(tensor["dtype"], tensor["dtype"].lower()) for tensor in tensors})


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers would load, as far as they are here: none if a shard is missing."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{index} is no index of weights: {error!r}") from error
    shards = [folder / Path(name).name for name in sorted(names)]
    return shards if all(shard.is_file() for shard in shards) else []


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, dict[str, Any]]
    """``dtype``, ``shape`` and ``data_offsets`` of each tensor."""
    data_offset: int
    """Bytes before the first tensor."""


def read_header(path: Path) -> Header:
    """
    Raises:
        CorruptCheckpoint: the file is none of safetensors.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            entries = json.loads(file.read(size)) if size <= _MOST_HEADER_BYTES else None
        except ValueError:
            entries = None
    if not isinstance(entries, dict):
        raise CorruptCheckpoint(f"{path} is no safetensors file, or a damaged one; download it again.")
    return Header({name: entry for name, entry in entries.items() if name != "__metadata__"}, 8 + size)
