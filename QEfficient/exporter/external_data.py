"""Writes the tensors of graphs into external data files, in pieces, and hashes the files."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import onnx_ir as ir

from QEfficient.exporter.weights import SourceTensor
from QEfficient.store.manifest import FileRecord
from QEfficient.transformers.checkpoint.source import as_bytes

_SMALL_BYTES = 256
"""Tensors of up to this size stay in the graph."""
_ALIGNMENT = 64
"""Bytes: tensors of a mapped file are aligned for vector instructions."""


class ExternalData:
    """The files with the tensors of the graphs in one folder. Tensors that graphs share are stored once.

    Args:
        folder: an existing folder.
        name: of the first file; the others have a number as suffix.
        max_bytes: of a file; a larger tensor gets a separate file.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int):
        self._folder, self._name, self._max_bytes = folder, name, max_bytes
        self._known: dict[Hashable, tuple[str, int, int]] = {}
        self._file: _HashedFile | None = None
        self.files: dict[str, FileRecord] = {}
        """What the closed files are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_file()

    def move_out(self, model: ir.Model) -> None:
        """Write the large initializers of ``model``, and replace them with references to the files."""
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.nbytes > _SMALL_BYTES:
                    value.const_value = self._external(tensor, str(value.name))

    def _external(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(*self._place(tensor), tensor.dtype, shape=shape, name=name, base_dir=self._folder)

    def _place(self, tensor: ir.TensorProtocol) -> tuple[str, int, int]:
        """File, offset and length of a tensor; writes it unless it is already stored."""
        if not isinstance(tensor, SourceTensor):
            return self._write(tensor)
        if tensor.content not in self._known:
            self._known[tensor.content] = self._write(tensor)
        return self._known[tensor.content]

    def _write(self, tensor: ir.TensorProtocol) -> tuple[str, int, int]:
        file = self._file_for(tensor.nbytes)
        offset = file.align()
        for data in _contents(tensor):
            file.write(data)
        return file.path.name, offset, file.num_bytes - offset

    def _file_for(self, num_bytes: int) -> _HashedFile:
        file = self._file
        if file is None or (file.num_bytes and file.num_bytes + _ALIGNMENT + num_bytes > self._max_bytes):
            self._close_file()
            number = f".{len(self.files)}" if self.files else ""
            file = self._file = _HashedFile(self._folder / f"{self._name}{number}")
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            self.files[self._file.path.name] = self._file.close()
        self._file = None


def _contents(tensor: ir.TensorProtocol) -> Iterator[memoryview | bytes]:
    if isinstance(tensor, SourceTensor):
        return (as_bytes(piece) for piece in tensor.pieces())
    return iter([tensor.tobytes()])


class _HashedFile:
    """A new file that is hashed while it is written."""

    def __init__(self, path: Path):
        self.path, self.num_bytes = path, 0
        self._file: BinaryIO = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._hashing: Future[None] | None = None

    def align(self) -> int:
        """Pad to the alignment of the next tensor, and return its offset."""
        if gap := -self.num_bytes % _ALIGNMENT:
            self.write(bytes(gap))
        return self.num_bytes

    def write(self, data: memoryview | bytes) -> None:
        """Append ``data``, which must not change afterwards."""
        self._wait()
        self._hashing = self._worker.submit(self._sha256.update, data)
        self._file.write(data)
        self.num_bytes += len(data)

    def close(self) -> FileRecord:
        """What was written."""
        self._wait()
        self._worker.shutdown()
        self._file.close()
        return FileRecord(self.num_bytes, self._sha256.hexdigest())

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
