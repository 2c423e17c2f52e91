"""Tensors that are known before they are read: where they lie in a file, or how they are made of others that do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from QEfficient.errors import CorruptCheckpoint
from QEfficient.transformers.checkpoint.packed import Dense, Quantized, Stored


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """What an operator makes of tensors."""

    operator: Any
    args: tuple[Any, ...]
    """With :data:`Unread` in the places of tensors that are not read."""
    kwargs: dict[str, Any]
    output: int
    """Which of the operator's outputs."""
    tensor: Dense


Unread = Stored | Quantized | Made


class UnreadParameter(nn.Parameter):
    """A parameter without bytes, on the meta device, that knows how it is read."""

    unread: Unread

    def __new__(cls, unread: Unread, requires_grad: bool = False) -> UnreadParameter:
        data = torch.empty(unread.tensor.shape, dtype=unread.tensor.dtype, device="meta")
        parameter: UnreadParameter = torch.Tensor._make_subclass(cls, data, requires_grad)
        parameter.unread = unread
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> UnreadParameter:
        return memo.setdefault(id(self), UnreadParameter(self.unread, self.requires_grad))


class Reader:
    """Reads parts of files, and counts what it reads."""

    def __init__(self) -> None:
        self.bytes_read = 0

    def elements(self, stored: Stored, start: int, stop: int) -> torch.Tensor:
        """Elements ``start`` to ``stop`` of a tensor, flat.

        Raises:
            CorruptCheckpoint: the file is shorter than it was.
        """
        item_bytes = stored.tensor.dtype.itemsize
        content: Any = np.empty((stop - start) * item_bytes, np.uint8)
        view = memoryview(content)
        with stored.file.path.open("rb", buffering=0) as file:
            file.seek(stored.offset + start * item_bytes)
            while view:
                num_read = file.readinto(view)
                if not num_read:
                    raise CorruptCheckpoint(f"{stored.file.path} ends inside '{stored.name}'; download it again.")
                view = view[num_read:]
        self.bytes_read += content.nbytes
        return torch.from_numpy(content).view(stored.tensor.dtype)

    def whole(self, stored: Stored) -> torch.Tensor:
        """All of a tensor."""
        shape = torch.Size(stored.tensor.shape)
        return self.elements(stored, 0, shape.numel()).reshape(shape)

    def rows(self, stored: Stored, start: int, stop: int) -> torch.Tensor:
        """Rows of a tensor along its first axis."""
        row = torch.Size(stored.tensor.shape[1:])
        return self.elements(stored, start * row.numel(), stop * row.numel()).reshape(-1, *row)


def mapped(stored: Stored) -> torch.Tensor:
    """All of a tensor, its memory the file's, as transformers loads it.

    Raises:
        CorruptCheckpoint: the file has changed since the model was loaded.
    """
    stored.file.check_unchanged()
    if stored.file.is_gguf:
        return _mapped_bytes(stored)
    with safe_open(stored.file.path, framework="pt") as file:
        tensor: torch.Tensor = file.get_slice(stored.name)[...]
        return tensor


def _mapped_bytes(stored: Stored) -> torch.Tensor:
    """A tensor by its place in the file; torch wants memory that it could write."""
    content = np.memmap(stored.file.path, np.uint8, "c", stored.offset, (stored.tensor.num_bytes,))
    return torch.from_numpy(content).view(stored.tensor.dtype).reshape(stored.tensor.shape)


def evaluate(unread: Unread, load: Callable[[Stored], torch.Tensor]) -> torch.Tensor:
    """A tensor as a whole; ``load`` reads what is stored."""
    if isinstance(unread, Stored):
        return load(unread)
    if isinstance(unread, Quantized):
        return unread.whole(lambda stored, start, stop: _rows(load(stored), start, stop))
    args, kwargs = tree_map(
        lambda leaf: evaluate(leaf, load) if isinstance(leaf, Unread) else leaf, (unread.args, unread.kwargs)
    )
    made = unread.operator(*args, **kwargs)
    tensor: torch.Tensor = made[unread.output] if isinstance(made, list | tuple) else made
    return tensor


def _rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return tensor[start:stop] if tensor.ndim else tensor.reshape(1)


def stored_in(unread: Unread) -> Iterator[Stored]:
    """The stored tensors that a tensor is made of, other than parts of quantised ones."""
    if isinstance(unread, Stored):
        yield unread
    elif isinstance(unread, Made):
        for leaf in tree_leaves((unread.args, unread.kwargs)):
            if isinstance(leaf, Unread):
                yield from stored_in(leaf)


def quantized_in(unread: Unread) -> Iterator[Quantized]:
    """The quantised tensors that a tensor is made of."""
    if isinstance(unread, Quantized):
        yield unread
    elif isinstance(unread, Made):
        for leaf in tree_leaves((unread.args, unread.kwargs)):
            if isinstance(leaf, Unread):
                yield from quantized_in(leaf)


def parts_of(unread: Unread) -> Iterator[Stored]:
    """Every stored tensor that a tensor is made of."""
    yield from stored_in(unread)
    for quantized in quantized_in(unread):
        yield from quantized.parts.values()
