"""A quantised checkpoint's files as transformers' loader sees them: the dense weights in the places of their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from QEfficient.transformers.checkpoint.unread import Unread
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES

_SAFETENSORS_NAMES = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items()}


class NothingStored:
    """An open file of which no tensor is loaded under the name that it has there."""

    def __enter__(self) -> NothingStored:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is open."""

    def keys(self) -> list[str]:
        """None."""
        return []


class DenseView:
    """An open file, with dense weights for the parts of quantised ones: ``keys``, ``get_slice``, and what describes it.

    Args:
        opened: the file as it is.
        tensors: the weights that are seen in this file, by name.
        parts: names that are not seen.
        make: gives a weight's tensor.
    """

    def __init__(
        self,
        opened: Any,
        tensors: Mapping[str, Unread],
        parts: frozenset[str],
        make: Callable[[Unread], torch.Tensor],
    ):
        self._opened, self._tensors, self._parts, self._make = opened, tensors, parts, make

    def __enter__(self) -> DenseView:
        self._opened.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def keys(self) -> list[str]:
        """Names of the weights."""
        return [*(name for name in self._opened.keys() if name not in self._parts), *self._tensors]  # noqa: SIM118

    def get_slice(self, name: str) -> Any:
        """A weight, to be read."""
        if name not in self._tensors:
            return self._opened.get_slice(name)
        return _Slice(self._tensors[name], self._make)


class _Slice:
    """A weight as the loader uses it."""

    def __init__(self, unread: Unread, make: Callable[[Unread], torch.Tensor]):
        self._unread, self._make = unread, make

    def get_shape(self) -> list[int]:
        return list(self._unread.tensor.shape)

    def get_dtype(self) -> str:
        return _SAFETENSORS_NAMES[self._unread.tensor.dtype]

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._make(self._unread)[index]
