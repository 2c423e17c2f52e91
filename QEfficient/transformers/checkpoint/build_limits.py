"""Stops a model that grows beyond its checkpoint while its class builds it, whatever in the config makes it grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from QEfficient.errors import CorruptCheckpoint
from QEfficient.store.files import readable_bytes
from QEfficient.transformers.checkpoint.files import config_source

aten = torch.ops.aten

MAX_TENSORS = 2**16
"""Of a model without a checkpoint; a few seconds' work."""
_FEW_TENSORS = 2**14
_TENSORS_PER_STORED = 16
"""A stored tensor may become several: fused projections, experts, buffers."""
MAX_BYTES = 2**30
"""Of tensors with content beyond the checkpoint's: tables of positions, masks. The largest have 256 MiB."""
_LARGE = 2**20

_NEW = frozenset(
    {aten.empty, aten.zeros, aten.ones, aten.full, aten.arange, aten.linspace, aten.eye, aten.rand, aten.randn}
    | {aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like}
    | {aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full}
)
_GROWING = frozenset({aten.mul, aten.div, aten.add, aten.sub, aten.pow, aten.mm, aten.bmm, aten.repeat})
"""Whose result may be larger than what it is made of."""


class BuildLimits(TorchDispatchMode):
    """While it is entered, tensors that are made are counted, and their bytes before they are allocated."""

    def __init__(self, source: Path, num_tensors: int | None = None, num_bytes: int = 0):
        """
        Args:
            source: the folder with the config.
            num_tensors: of its weights; None if there are none.
            num_bytes: of its weights.
        """
        super().__init__()
        self._source = source
        self._tensors_left = MAX_TENSORS
        if num_tensors is not None:
            self._tensors_left = max(_FEW_TENSORS, _TENSORS_PER_STORED * num_tensors)
        self._bytes_left = MAX_BYTES + 2 * num_bytes
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing: what is made has no content, and says otherwise."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.check(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def check(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count what an operator is about to make; for another mode that sees all operators.

        Raises:
            CorruptCheckpoint: there are too many tensors, or they are too large.
        """
        if self._is_paused:
            return
        if func.overloadpacket in _NEW:
            self._tensors_left -= 1
            if self._tensors_left < 0:
                raise self._refusal("makes more tensors than its weights account for")
            if not _is_on_meta(args, kwargs):
                self._count_bytes(func, args, {**kwargs, "device": "meta"})
        elif func.overloadpacket in _GROWING and any(_is_large(arg) for arg in args):
            self._count_bytes(func, args, kwargs)

    def _count_bytes(self, func: Any, args: Any, kwargs: Any) -> None:
        outline = func(*tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), args), **kwargs)
        size = outline.numel() * outline.element_size()
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise self._refusal(f"makes a tensor {tuple(outline.shape)} of {readable_bytes(size)}")

    def _refusal(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"{config_source(self._source)}: the model {what}. A size is damaged, or the config is that of "
            "another model: download the checkpoint again."
        )


def _is_on_meta(args: Any, kwargs: Any) -> bool:
    """Whether a new tensor has no content: because it is told so, or is like another that has none."""
    like = args[0] if args and isinstance(args[0], torch.Tensor) else None
    device = kwargs.get("device") or (like.device if like is not None else "cpu")
    return torch.device(device).type == "meta" or isinstance(like, FakeTensor)


def _is_large(value: object) -> bool:
    if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
        return False
    return value.device.type != "meta" and value.numel() >= _LARGE
