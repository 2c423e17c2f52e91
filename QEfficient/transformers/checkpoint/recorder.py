"""Loads a model with transformers' own loader without reading weights, and notes how each would be read.

The loader opens safetensors files through :meth:`Recorder.open` and gets fake tensors. It renames, casts, merges and
splits them as always; every operator on them is noted. What it asks of a value, such as whether two tied weights are
equal, is answered from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from QEfficient.transformers.checkpoint.build_limits import BuildLimits
from QEfficient.transformers.checkpoint.pieces import pieces
from QEfficient.transformers.checkpoint.source import Dense, split
from QEfficient.transformers.checkpoint.unread import (
    Made,
    Reader,
    Stored,
    Unread,
    UnreadParameter,
    evaluate,
    mapped,
)
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES, WeightFile

aten = torch.ops.aten

_QUESTIONS = frozenset({aten._local_scalar_dense.default, aten.is_nonzero.default})
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
_NEW = ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
_FACTORIES = frozenset(getattr(aten, name).default for name in (*_LIKE, *_NEW))
"""Operators that take shape and dtype of a tensor, and nothing of its content."""


class Recorder(TorchDispatchMode):
    """Notes how tensors are made, while it is active.

    Attributes:
        obstacles: why the weights have to be read at once after all.
    """

    def __init__(self, limits: BuildLimits):
        """
        Args:
            limits: of what is made of nothing; this mode sees it first.
        """
        super().__init__()
        self.obstacles: list[str] = []
        self._limits = limits
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._unread = WeakTensorKeyDictionary()

    def open(self, file: WeightFile, **options: Any) -> _OpenFile:
        """safetensors' ``safe_open``, over tensors that are not read."""
        return _OpenFile(self, file, options)

    def stand_in(self, unread: Unread) -> torch.Tensor:
        """A fake tensor for one that is not read."""
        with self._fake_mode, self._limits.paused():
            fake = torch.empty(unread.tensor.shape, dtype=unread.tensor.dtype)
        self._unread[fake] = unread
        return fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            self._limits.check(func, args, kwargs)
            return func(*args, **kwargs)
        if func == aten.equal.default:
            return self._are_equal(*args)
        if func in _QUESTIONS:
            return func(evaluate(self._unread[args[0]], mapped))
        if func in _FACTORIES:
            shape = torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
            return func(shape, *args[1:], **{**kwargs, "device": kwargs.get("device") or args[0].device})
        if func._schema.is_mutable:
            self.obstacles.append(f"transformers writes into a weight after it has read it ({func})")
        outputs = func(*args, **kwargs)
        self._note(outputs, func, args, kwargs)
        return outputs

    def _note(self, outputs: Any, func: Any, args: Any, kwargs: Any) -> None:
        args, kwargs = tree_map(lambda leaf: self._unread.get(leaf, leaf) if _is_fake(leaf) else leaf, (args, kwargs))
        for index, output in enumerate(tree_leaves(outputs)):
            if _is_fake(output) and output not in self._unread:
                tensor = Dense(tuple(output.shape), output.dtype)
                self._unread[output] = Made(func, tuple(args), kwargs, index, tensor)

    def _are_equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        pairs = zip(self._pieces(one), self._pieces(other), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    def _pieces(self, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        return pieces(self._unread[tensor], Reader()) if _is_fake(tensor) else split(tensor)

    def settle(self, model: nn.Module) -> None:
        """Put parameters that know how they are read in the places of fake ones, and read buffers.

        Finds more :attr:`obstacles`: fake tensors where nobody would look for a weight.
        """
        made: dict[int, torch.Tensor] = {}
        for module in model.modules():
            for name, value in vars(module).items():
                if name not in ("_parameters", "_buffers", "_modules") and any(map(_is_fake, tree_leaves(value))):
                    self.obstacles.append(f"{type(module).__name__}.{name} is made of weights")
            for tensors, settled in ((module._parameters, self._parameter), (module._buffers, self._buffer)):
                for name, tensor in tensors.items():
                    if _is_fake(tensor):
                        tensors[name] = made.setdefault(id(tensor), settled(tensor))

    def _parameter(self, fake: FakeTensor) -> nn.Parameter:
        return UnreadParameter(self._unread[fake], fake.requires_grad)

    def _buffer(self, fake: FakeTensor) -> torch.Tensor:
        return evaluate(self._unread[fake], mapped).clone()


def _is_fake(value: object) -> bool:
    return isinstance(value, FakeTensor)


class _OpenFile:
    """An open file as the loader uses it: ``keys``, ``get_slice`` and what describes them."""

    def __init__(self, recorder: Recorder, file: WeightFile, options: dict[str, Any]):
        self._recorder, self._file = recorder, file
        self._opened = safe_open(file.path, **options)

    def __enter__(self) -> _OpenFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.__exit__(None, None, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def get_slice(self, name: str) -> Any:
        opened = self._opened.get_slice(name)
        is_known = self._file.header.tensors[name].dtype in TORCH_NAMES
        return _OpenTensor(opened, self._recorder, self._stored(name)) if is_known else opened

    def _stored(self, name: str) -> Stored:
        header = self._file.header
        entry = header.tensors[name]
        tensor = Dense(entry.shape, getattr(torch, TORCH_NAMES[entry.dtype]))
        return Stored(self._file, name, header.data_offset + entry.begin, tensor)


class _OpenTensor:
    """A tensor of an open file as the loader uses it."""

    def __init__(self, opened: Any, recorder: Recorder, stored: Stored):
        self._opened, self._recorder, self._stored = opened, recorder, stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._recorder.stand_in(self._stored)[index]
