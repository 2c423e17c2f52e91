"""What a GGUF file says of itself, read as if a stranger had written it: metadata, and where its tensors lie.

Versions 2 and 3, little-endian: counts, pairs of key and value, then name, sizes, type and offset of each tensor. Sizes
are the innermost first; here they are as in torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_AXES = 4
_MAX_ENTRIES = 1 << 20
"""Of pairs and of tensors."""
_MAX_KEPT = 1 << 16
"""Numbers of an array that is kept; of longer ones, and of texts, only the length is."""
_PLAIN = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""Types that are no blocks, in safetensors' words, and their bytes."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """What a file says of one of its tensors."""

    type: str
    """ggml's name, such as Q4_K."""
    shape: tuple[int, ...]
    """Of its elements."""
    begin: int
    """First byte, counted from the start of the data."""
    num_bytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a file says of itself."""

    metadata: dict[str, Any]
    """Numbers, texts and short arrays of numbers; of other arrays the length."""
    tensors: dict[str, GGUFTensor]
    data_offset: int
    """Bytes before the first tensor."""

    @property
    def architecture(self) -> str:
        """In llama.cpp's words."""
        return str(self.metadata["general.architecture"])


def read_gguf_header(path: Path) -> GGUFHeader:
    """
    Raises:
        CorruptCheckpoint: the file is none of GGUF, ends early, or gives a tensor a place that it does not have.
        UnsupportedModel: a version or a type of tensor that is not read.
    """
    num_bytes = path.stat().st_size
    if num_bytes < len(MAGIC):
        raise damaged(path, f"it has {num_bytes} bytes")
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return _Parser(path, content).header()


def damaged(path: Path, what: str) -> CorruptCheckpoint:
    """An error that names the file."""
    return CorruptCheckpoint(f"{path} is truncated or damaged, or no GGUF file: {what}. Download it again.")


@cache
def block_sizes() -> dict[int, tuple[str, int, int]]:
    """By ggml's number of a type: its name, elements and bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    return {kind.value: (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}


class _Parser:
    """Reads a header from its start on."""

    def __init__(self, path: Path, content: mmap):
        self._path, self._content, self._place = path, content, 0

    def header(self) -> GGUFHeader:
        if self._take(len(MAGIC)) != MAGIC:
            raise damaged(self._path, "it does not begin with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
            if is_swapped:
                raise UnsupportedModel(f"{self._path} is in big-endian order. Convert it to little-endian order.")
            raise UnsupportedModel(
                f"{self._path} is of GGUF version {version}, and this library reads {' and '.join(map(str, _VERSIONS))}"
                " in little-endian order. Convert it again with a current llama.cpp."
            )
        num_tensors, num_pairs = self._count("tensors"), self._count("pairs of key and value")
        metadata = self._unique(num_pairs, "key", self._pair)
        if not isinstance(metadata.get("general.architecture"), str):
            raise damaged(self._path, "its metadata has no general.architecture")
        tensors = self._unique(num_tensors, "tensor", self._tensor)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
            raise damaged(self._path, f"general.alignment is {alignment!r}")
        header = GGUFHeader(metadata, tensors, -(-self._place // alignment) * alignment)
        self._check_places(header)
        return header

    def _unique(self, count: int, what: str, read: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for _ in range(count):
            name, value = read()
            if name in entries:
                raise damaged(self._path, f"the {what} '{name}' is there twice")
            entries[name] = value
        return entries

    def _pair(self) -> tuple[str, Any]:
        key = self._text()
        return key, self._value(key, self._number("<I"))

    def _value(self, key: str, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(key)
        raise damaged(self._path, f"'{key}' is of type {kind}, which GGUF does not have")

    def _array(self, key: str) -> list[Any] | int:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            if count > _MAX_ENTRIES:
                raise damaged(self._path, f"'{key}' has {count} texts, expected at most {_MAX_ENTRIES}")
            for _ in range(count):
                self._skip(self._number("<Q"))
            return count
        if kind not in _SCALARS:
            raise damaged(self._path, f"'{key}' is an array of type {kind}")
        form = _SCALARS[kind]
        content = self._take(count * struct.calcsize(form)) if count <= _MAX_KEPT else None
        if content is None:
            self._skip(count * struct.calcsize(form))
            return count
        return [value for (value,) in struct.iter_unpack(form, content)]

    def _tensor(self) -> tuple[str, GGUFTensor]:
        name, num_axes = self._text(), self._number("<I")
        if num_axes > _MAX_AXES:
            raise damaged(self._path, f"'{name}' has {num_axes} axes, expected at most {_MAX_AXES}")
        shape = tuple(self._number("<Q") for _ in range(num_axes))[::-1]
        number, begin = self._number("<I"), self._number("<Q")
        if number not in block_sizes():
            raise UnsupportedModel(f"{self._path}: '{name}' is of ggml's type {number}, which this version has not.")
        kind, elements, num_bytes = block_sizes()[number]
        if not shape or not all(shape) or shape[-1] % elements:
            raise damaged(self._path, f"'{name}' is {kind} of {shape}, and its rows are of blocks of {elements}")
        return name, GGUFTensor(kind, shape, begin, prod(shape) // elements * num_bytes)

    def _check_places(self, header: GGUFHeader) -> None:
        """One after the other up to the end of the file."""
        end, available = 0, len(self._content) - header.data_offset
        for name, tensor in sorted(header.tensors.items(), key=lambda item: item[1].begin):
            last = tensor.begin + tensor.num_bytes
            if tensor.begin < end or last > available:
                raise damaged(
                    self._path,
                    f"'{name}' is at {tensor.begin} to {last}, expected from {end} on and at most to {available}",
                )
            end = last

    def _count(self, what: str) -> int:
        count = self._number("<Q")
        if count > _MAX_ENTRIES:
            raise damaged(self._path, f"it says that it has {count} {what}, expected at most {_MAX_ENTRIES}")
        return count

    def _text(self) -> str:
        octets = self._take(self._number("<Q"))
        try:
            return octets.decode()
        except UnicodeDecodeError as error:
            raise damaged(self._path, f"a text before byte {self._place} is no UTF-8") from error

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return value

    def _take(self, count: int) -> bytes:
        start = self._place
        self._skip(count)
        return self._content[start : self._place]

    def _skip(self, count: int) -> None:
        if count > len(self._content) - self._place:
            raise damaged(self._path, f"{count} bytes from {self._place} on are beyond its end")
        self._place += count
