"""The weights of a model that was loaded without them, read from its files when they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import blake3
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from QEfficient.errors import CorruptCheckpoint
from QEfficient.store.notes import read_note, write_note
from QEfficient.transformers.checkpoint.packed import PackedReader, PackedStack, Quantized
from QEfficient.transformers.checkpoint.packed_stacks import packed_stack
from QEfficient.transformers.checkpoint.pieces import pieces, without_copies
from QEfficient.transformers.checkpoint.source import FromModule, NotFinite, WeightSource
from QEfficient.transformers.checkpoint.unread import (
    Made,
    Reader,
    Stored,
    Unread,
    UnreadParameter,
    evaluate,
    mapped,
    parts_of,
)
from QEfficient.transformers.checkpoint.weight_files import WeightFile

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_NOTES = "weights"
_DIGEST_VERSION = 1
"""Changes with what a digest is taken of."""


def is_unread(model: nn.Module) -> bool:
    """Whether parameters of ``model`` are still to be read."""
    return any(isinstance(parameter, UnreadParameter) for parameter in model.parameters())


def read_parameters(model: nn.Module) -> None:
    """Read what is unread of ``model``, in place; as transformers does, over the files' mapped memory."""
    values = _values(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = values.get(id(parameter), parameter)


def copy_with_values(module: ModuleT) -> ModuleT:
    """A copy of ``module`` whose parameters are read; it shares those that already are."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    return copy.deepcopy(module, memo=shared | _values(module))


def _values(module: nn.Module) -> dict[int, nn.Parameter]:
    """For each unread parameter, by identity, one with its values."""
    return {
        id(parameter): nn.Parameter(evaluate(parameter.unread, mapped), parameter.requires_grad)
        for parameter in module.parameters()
        if isinstance(parameter, UnreadParameter)
    }


class FromCheckpoint(FromModule):
    """The weights of a model with unread parameters.

    The digest is that of the same model in memory. What it was taken of is remembered on the disk by the content of the
    files and the way in which each weight is made of them, so that only the first process reads.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._reader = Reader()
        self._known: dict[str, str] = {}

    @property
    def bytes_read(self) -> int:
        """See :class:`WeightSource`."""
        return super().bytes_read + self._reader.bytes_read

    def read(self, name: str) -> Iterator[torch.Tensor]:
        """See :class:`WeightSource`."""
        tensor = self._tensors[name]
        return pieces(tensor.unread, self._reader) if isinstance(tensor, UnreadParameter) else super().read(name)

    def packed(self, name: str) -> PackedReader | None:
        """See :class:`WeightSource`."""
        tensor = self._tensors[name]
        unread = without_copies(tensor.unread) if isinstance(tensor, UnreadParameter) else None
        return PackedReader(unread, self._reader.rows) if isinstance(unread, Quantized) else None

    def packed_stack(self, name: str) -> PackedStack | None:
        """See :class:`WeightSource`."""
        tensor = self._tensors[name]
        return packed_stack(tensor.unread, self._reader.rows) if isinstance(tensor, UnreadParameter) else None

    def digest(self) -> str:
        """See :class:`WeightSource`.

        Raises:
            CorruptCheckpoint: a weight is not finite, or a file has changed since the model was loaded.
        """
        recipes = _Recipes()
        made = {
            name: recipes.of(tensor.unread)
            for name, tensor in self._tensors.items()
            if isinstance(tensor, UnreadParameter)
        }
        ingredients = {"version": _DIGEST_VERSION, "files": recipes.check_files(), "made": made}
        known = read_note(_NOTES, ingredients)
        self._known = dict(known or {})
        digest = super().digest()
        recipes.check_files()
        if known is None and self._known:
            write_note(_NOTES, ingredients, self._known)
        return digest

    def _content(self, name: str) -> str:
        tensor = self._tensors[name]
        if not isinstance(tensor, UnreadParameter):
            return super()._content(name)
        unread = tensor.unread
        if name not in self._known:
            try:
                self._known[name] = super()._content(name)
            except NotFinite as error:
                raise CorruptCheckpoint(f"{_files(unread)}: {error}") from error
        return self._known[name]


def _files(unread: Unread) -> str:
    """The files that a tensor is read from."""
    return ", ".join(dict.fromkeys(str(each.file.path) for each in parts_of(unread)))


def weight_source(model: nn.Module) -> WeightSource:
    """The weights of ``model``, whether they are read or not."""
    return FromCheckpoint(model) if is_unread(model) else FromModule(model)


class _Recipes:
    """Says how tensors are made: in the same words for the same way over the same files."""

    def __init__(self) -> None:
        self._files: dict[WeightFile, int] = {}
        self._said: dict[int, str] = {}

    def of(self, unread: Unread) -> str:
        """A digest of the way in which a tensor is made."""
        if id(unread) not in self._said:
            self._said[id(unread)] = blake3.blake3(self._words(unread).encode()).hexdigest()
        return self._said[id(unread)]

    def _words(self, unread: Unread) -> str:
        if isinstance(unread, Stored):
            return self._stored(unread)
        return self._quantized(unread) if isinstance(unread, Quantized) else self._made(unread)

    def _quantized(self, quantized: Quantized) -> str:
        parts = {part: self._stored(stored) for part, stored in sorted(quantized.parts.items())}
        return f"{quantized.packing!r}|{quantized.tensor}|{parts}"

    def _stored(self, stored: Stored) -> str:
        number = self._files.setdefault(stored.file, len(self._files))
        return f"{number}|{stored.name}|{stored.offset}|{stored.tensor}"

    def _made(self, made: Made) -> str:
        leaves, structure = tree_flatten((made.args, made.kwargs))
        words = [self.of(leaf) if isinstance(leaf, Unread) else repr(leaf) for leaf in leaves]
        return f"{made.operator}|{made.output}|{structure}|{words}"

    def check_files(self) -> list[dict[str, Any]]:
        """What the files are, in order.

        Raises:
            CorruptCheckpoint: one has changed since the model was loaded.
        """
        for file in self._files:
            file.check_unchanged()
        return [file.identity for file in self._files]
