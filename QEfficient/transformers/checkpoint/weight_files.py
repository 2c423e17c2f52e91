"""A checkpoint's weight files: one list, resolved and checked before any of them is opened for its tensors.

A name in an index is a stranger's: it stays in the folder, and a file is safetensors by its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint
from QEfficient.transformers.checkpoint.files import (
    config_source,
    contained,
    identity,
    is_regular,
    parse_json,
    read_json,
)
from QEfficient.transformers.checkpoint.gguf_folder import SUFFIX as GGUF_SUFFIX
from QEfficient.transformers.checkpoint.gguf_folder import linked_weights
from QEfficient.transformers.checkpoint.gguf_header import read_gguf_header
from QEfficient.transformers.checkpoint.other_layouts import without_weights
from QEfficient.transformers.checkpoint.sizes import check_fits

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"} | {
    f"{kind}{bits}": f"{'u' * (kind == 'U')}int{bits}" for kind in "IU" for bits in (8, 16, 32, 64)
}
TORCH_NAMES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
"""torch's names of safetensors' dtypes."""
_ITEM_BYTES = {"BOOL": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8} | {
    f"{kind}{bits}": bits // 8 for kind in "IU" for bits in (8, 16, 32, 64)
}
_ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_MOST_HEADER_BYTES = 100_000_000
"""The limit of safetensors."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SUFFIX = ".safetensors"
_WHOLE, _INDEX = f"model{_SUFFIX}", f"model{_SUFFIX}.index.json"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a safetensors file says of one of its tensors."""

    dtype: str
    """In safetensors' words; of GGUF's blocks in ggml's."""
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the end of the header."""
    end: int

    @property
    def is_float(self) -> bool:
        """Whether its elements are real or complex numbers."""
        return self.dtype.startswith(("F", "BF", "C"))


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, StoredTensor]
    data_offset: int
    """Bytes before the first tensor."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the writer added: for some formats, what its tensors are parts of."""


@dataclass(frozen=True, eq=False, slots=True)
class WeightFile:
    """A safetensors file as it was when its header was read."""

    path: Path
    identity: dict[str, Any]
    header: Header

    @property
    def is_gguf(self) -> bool:
        """Whether it is no safetensors file."""
        return self.path.suffix.lower() == GGUF_SUFFIX

    def check_unchanged(self) -> None:
        """
        Raises:
            CorruptCheckpoint: it is another file now, or gone.
        """
        if not self.path.is_file() or identity(self.path) != self.identity:
            raise CorruptCheckpoint(f"{self.path} has changed since the model was loaded. Load the checkpoint again.")


class WeightFiles:
    """The weight files of one checkpoint.

    Attributes:
        folder: the checkpoint's.
        paths: those that its index names, or its only one.
    """

    def __init__(self, folder: Path):
        """
        Raises:
            CheckpointNotFound: there are none.
            CorruptCheckpoint: one is missing, or no safetensors file; the index is none.
            UnsafeCheckpoint: one is pickled, or outside of the folder.
        """
        self.folder = folder
        self.paths = _paths(folder)
        missing = [path for path in self.paths if not path.exists()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CorruptCheckpoint(
                f"{folder} lacks {missing[0].name}{more}, which {_INDEX} names. Download the checkpoint again."
            )
        self._files = {path: open_weight_file(path) for path in self.paths}
        if not self._files:
            raise _no_weights(folder)

    def file(self, path: Path) -> WeightFile:
        """One of the files; one that only the architecture's class names is checked now.

        Raises:
            CorruptCheckpoint: it has changed since it was checked, or is no safetensors file.
            UnsafeCheckpoint: it is outside of the folder.
        """
        if path not in self._files:
            name = str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)
            self._files[path] = open_weight_file(contained(self.folder, name))
        self._files[path].check_unchanged()
        return self._files[path]

    def files(self) -> list[WeightFile]:
        """All of them."""
        return list(self._files.values())

    @property
    def num_tensors(self) -> int:
        """Of all files."""
        return sum(len(file.header.tensors) for file in self._files.values())

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.end - tensor.begin for _, tensor in self.tensors())

    @property
    def dtypes(self) -> list[str]:
        """Of the tensors, in torch's words."""
        return sorted({TORCH_NAMES.get(tensor.dtype, tensor.dtype.lower()) for _, tensor in self.tensors()})

    def check_config(self, config: Mapping[str, Any]) -> None:
        """
        Raises:
            CorruptCheckpoint: the weights are too few or too small for a size in ``config``.
        """
        check_fits(config, config_source(self.folder), self.num_tensors, self.num_bytes)

    def tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """The tensors of all files by name."""
        for file in self._files.values():
            yield from file.header.tensors.items()


def local_weight_files(folder: Path) -> WeightFiles | None:
    """The weight files in ``folder``; None if one is not here, because only the config was downloaded.

    Raises:
        CorruptCheckpoint, UnsafeCheckpoint: as :class:`WeightFiles`.
    """
    paths = _paths(folder)
    return WeightFiles(folder) if paths and all(path.exists() for path in paths) else None


def missing_shards(folder: Path) -> list[str]:
    """Names of weight files that the index in ``folder`` has and that are not there, because they are not downloaded.

    Raises:
        CorruptCheckpoint, UnsafeCheckpoint: as :class:`WeightFiles`.
    """
    return [name for name in _names(folder) if not contained(folder, name).exists()]


def _paths(folder: Path) -> list[Path]:
    """The files that hold the weights, whether they are there or not."""
    return linked_weights(folder) or [contained(folder, name) for name in _names(folder)]


def _names(folder: Path) -> list[str]:
    """Names of the files that hold the weights; none if there is neither a whole file nor an index."""
    if contained(folder, _WHOLE).exists():
        return [_WHOLE]
    index = contained(folder, _INDEX)
    if not index.exists():
        return []
    names = read_json(index).get("weight_map")
    values = list(names.values()) if isinstance(names, dict) else []
    if not values or not all(isinstance(name, str) for name in values):
        raise CorruptCheckpoint(
            f"{index} is not an index of weights: weight_map must be an object of file names. Download it again."
        )
    unsafe = sorted({name for name in values if not name.endswith(_SUFFIX)})
    if unsafe:
        raise UnsafeCheckpoint(
            f"{index} names {unsafe[0]}, which is no {_SUFFIX} file. Unpickling runs code, so other formats are never "
            "loaded: take the model's safetensors files, or convert it in a place that you trust."
        )
    return sorted({*values})


def _no_weights(folder: Path) -> Exception:
    if (other := without_weights(folder)) is not None:
        return CheckpointNotFound(f"{folder} has a config but no weights that are read. {other}")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if not pickles:
        return CheckpointNotFound(f"{folder} has a config but no weights ({_WHOLE}, or {_INDEX} and its files).")
    return UnsafeCheckpoint(
        f"The weights in {folder} are pickled ({', '.join(pickles[:3])}); unpickling runs code, so they are "
        "never loaded. Convert them to safetensors: load the model once in a place you trust and call "
        "save_pretrained()."
    )


def open_weight_file(path: Path) -> WeightFile:
    """A weight file, its header read.

    Raises:
        CorruptCheckpoint: it is none.
    """
    if not is_regular(path):
        raise CorruptCheckpoint(
            f"{path} is not a file: weights are in safetensors files. Download the checkpoint again."
        )
    return WeightFile(
        path, identity(path), _gguf_header(path) if path.suffix.lower() == GGUF_SUFFIX else read_header(path)
    )


def _gguf_header(path: Path) -> Header:
    header = read_gguf_header(path)
    tensors = {
        name: StoredTensor(tensor.type, tensor.shape, tensor.begin, tensor.begin + tensor.num_bytes)
        for name, tensor in header.tensors.items()
    }
    return Header(tensors, header.data_offset)


def read_header(path: Path) -> Header:
    """
    Raises:
        CorruptCheckpoint: the file is none of safetensors, or its header does not fit its size.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(_MOST_HEADER_BYTES, num_bytes - 8):
            raise _damaged(path, f"its header has {size} bytes and the file {num_bytes}")
        entries = parse_json(path, file.read(size))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its header's __metadata__ is not an object of strings")
    tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
    _check_layout(path, tensors, num_bytes - 8 - size)
    return Header(tensors, 8 + size, metadata)


def _tensor(path: Path, name: str, entry: object) -> StoredTensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(path, f"its header does not give '{name}' a dtype, a shape and two data_offsets")
    tensor = StoredTensor(dtype, shape, *offsets)
    item_bytes = _ITEM_BYTES.get(dtype)
    if item_bytes is not None and prod(shape) * item_bytes != tensor.end - tensor.begin:
        raise _damaged(path, f"'{name}' is {dtype} {shape} in {tensor.end - tensor.begin} bytes")
    return tensor


def _sizes(values: object) -> tuple[int, ...] | None:
    if isinstance(values, list) and all(type(value) is int and value >= 0 for value in values):
        return tuple(values)
    return None


def _check_layout(path: Path, tensors: dict[str, StoredTensor], num_bytes: int) -> None:
    """One after the other, without holes, up to the end of the file: as safetensors writes them."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end or tensor.end < tensor.begin:
            raise _damaged(path, f"'{name}' is at {tensor.begin} to {tensor.end}, expected from {end} on")
        end = tensor.end
    if end != num_bytes:
        raise _damaged(path, f"its tensors take {end} bytes, and {num_bytes} are there")


def _damaged(path: Path, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{path} is truncated or damaged, or no safetensors file: {what}. Download it again.")
