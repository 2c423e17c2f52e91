"""Where a model's weights come from, whatever holds them: names and shapes first, bytes in pieces when asked for.

A source is read twice in a first compile: once for its digest, with a look at every number, and once for the file that
is made of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import blake3
import numpy as np
import torch
from torch import nn

from QEfficient.errors import CorruptCheckpoint, ExportError
from QEfficient.forks import is_forked
from QEfficient.transformers.checkpoint.missing import MissingParameter
from QEfficient.transformers.checkpoint.packed import Dense, PackedReader, PackedStack

os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))  # as torch's data loaders: OpenMP's are gone

PIECE_BYTES = 8 << 20
"""Maximum read at once, so that memory does not grow with a tensor's size. The C library reuses blocks of up to about
24 MiB; larger ones are new pages each time, which cost more than the reading."""


class WeightSource(Protocol):
    """The weights of one model: its parameters, and the buffers that a checkpoint has."""

    @property
    def bytes_read(self) -> int:
        """Counted over all reads."""

    @property
    def tensors(self) -> Mapping[str, Dense]:
        """What each name stands for. Tied names are all there."""

    def packed(self, name: str) -> PackedReader | None:
        """Reads a tensor in the neutral packed form; None if the checkpoint stores it dense, or in several weights."""

    def packed_stack(self, name: str) -> PackedStack | None:
        """Reads a tensor as packed matrices, from however many weights; None if it is not packed in one form."""

    def name_of(self, parameter: torch.Tensor) -> str:
        """The name of one of the model's parameters, the same for all that are tied.

        Raises:
            ExportError: the source does not have it.
        """

    def read(self, name: str) -> Iterator[torch.Tensor]:
        """A dense tensor's elements in order, as flat pieces of at most :data:`PIECE_BYTES`.

        Raises:
            CorruptCheckpoint: the checkpoint does not have it, or its file is damaged.
        """

    def digest(self) -> str:
        """What names the content: names, dtypes, shapes and bytes.

        Raises:
            CorruptCheckpoint: a parameter holds NaN or infinity; says which.
        """


def weight_value(source: WeightSource, parameter: torch.Tensor) -> torch.Tensor:
    """A parameter of the model as one float32 tensor; for those that code outside of the graphs reads."""
    pieces = torch.cat(list(source.read(source.name_of(parameter))))
    return pieces.reshape(parameter.shape).float()


def split(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The elements of ``tensor`` in order, as flat pieces of at most :data:`PIECE_BYTES`."""
    if tensor.is_contiguous():
        yield from tensor.detach().view(-1).split(max(1, PIECE_BYTES // tensor.element_size()))
        return
    row_bytes = tensor[0].numel() * tensor.element_size()
    for rows in tensor.detach().split(max(1, PIECE_BYTES // max(1, row_bytes))):
        yield from split(rows.contiguous())


def as_bytes(piece: torch.Tensor) -> memoryview:
    """The memory of a flat piece."""
    return memoryview(piece.view(torch.uint8).numpy())


class NotFinite(CorruptCheckpoint):
    """A weight holds NaN or infinity."""


def content_digest(name: str, tensor: Dense, pieces: Iterable[torch.Tensor], *, must_be_finite: bool) -> str:
    """The digest of a tensor's bytes.

    Raises:
        CorruptCheckpoint: it holds NaN or infinity, and must not.
    """
    # Its pool of threads is the process's, and a forked child would wait for threads that are not there.
    content = blake3.blake3(max_threads=1 if is_forked() else blake3.blake3.AUTO)
    must_be_finite = must_be_finite and tensor.dtype.is_floating_point
    for piece in pieces:
        if must_be_finite and piece.numel() and not _is_finite(piece):
            raise NotFinite(
                f"Weight '{name}' {tensor.shape} holds NaN or infinity. The checkpoint is damaged or its training "
                "diverged; download or save it again."
            )
        content.update(as_bytes(piece))
    return content.hexdigest()


_EXPONENTS = {
    torch.float16: (np.uint16, 0x7C00),
    torch.bfloat16: (np.uint16, 0x7F80),
    torch.float32: (np.uint32, 0x7F80_0000),
    torch.float64: (np.uint64, 0x7FF0_0000_0000_0000),
}
"""A number's bits as an integer, and those of its exponent: all of them are set where it is NaN or infinite."""
_CACHED = 1 << 17
"""Elements whose bits stay in a core's cache."""


def _is_finite(piece: torch.Tensor) -> bool:
    # Not torch.aminmax: its threads wait busily for the next call, on the cores that the digest needs.
    if piece.dtype not in _EXPONENTS:
        piece = piece.float()
    kind, exponent = _EXPONENTS[piece.dtype]
    numbers: np.ndarray = np.asarray(as_bytes(piece)).view(kind)
    parts = (numbers[start : start + _CACHED] for start in range(0, len(numbers), _CACHED))
    return all(int((part & kind(exponent)).max()) < exponent for part in parts)


def joint_digest(tensors: Mapping[str, Dense], contents: Mapping[str, str]) -> str:
    """The digest of a set of tensors by those of their contents."""
    lines = (f"{name}|{tensor.dtype}|{tensor.shape}|{contents[name]}\n" for name, tensor in sorted(tensors.items()))
    return blake3.blake3("".join(lines).encode()).hexdigest()


class FromModule:
    """The weights of a model that is in memory.

    The digest is taken from memory, so that a model changed after loading is another model. It is remembered while
    nothing that PyTorch counts has changed a tensor; a write through ``tensor.data`` is not counted, so whoever lets a
    user at the model makes a new source.
    """

    def __init__(self, model: nn.Module):
        self._bytes_read = 0
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        state = model.state_dict(keep_vars=True)
        buffers = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        self._tensors: dict[str, torch.Tensor] = {**buffers, **self._parameters}
        self.tensors = {name: Dense(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}
        self._names = {id(tensor): name for name, tensor in reversed(self._tensors.items())}
        self._remembered: tuple[object, str] | None = None

    @property
    def bytes_read(self) -> int:
        """See :class:`WeightSource`."""
        return self._bytes_read

    def name_of(self, parameter: torch.Tensor) -> str:
        """See :class:`WeightSource`."""
        if id(parameter) not in self._names:
            raise ExportError(f"A graph has a parameter {tuple(parameter.shape)} that is not one of the model's.")
        return self._names[id(parameter)]

    def read(self, name: str) -> Iterator[torch.Tensor]:
        """See :class:`WeightSource`."""
        if isinstance(self._tensors[name], MissingParameter):
            raise CorruptCheckpoint(f"The checkpoint has no weight '{name}' {self.tensors[name].shape}.")
        for piece in split(self._tensors[name]):
            self._bytes_read += piece.nbytes
            yield piece

    def packed(self, name: str) -> PackedReader | None:
        """See :class:`WeightSource`."""
        return None

    def packed_stack(self, name: str) -> PackedStack | None:
        """See :class:`WeightSource`."""
        return None

    def digest(self) -> str:
        """See :class:`WeightSource`."""
        state = [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in self._tensors.values()]
        if self._remembered is None or self._remembered[0] != state:
            self._remembered = (state, joint_digest(self.tensors, self._contents()))
        return self._remembered[1]

    def _contents(self) -> dict[str, str]:
        contents: dict[str, str] = {}
        for name, tensor in self._tensors.items():
            first = self._names[id(tensor)]
            contents[name] = contents[first] if first in contents else self._content(name)
        return contents

    def _content(self, name: str) -> str:
        if isinstance(self._tensors[name], MissingParameter):
            return "missing"
        is_parameter = name in self._parameters
        return content_digest(name, self.tensors[name], self.read(name), must_be_finite=is_parameter)
