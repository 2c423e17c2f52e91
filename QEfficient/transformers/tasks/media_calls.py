"""Runs transformers' code around the towers of a model over fake weights, and notes which modules it calls.

It knows no graph: :mod:`QEfficient.transformers.tasks.media_parts` makes graphs of the calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from QEfficient.errors import UnsupportedModel
from QEfficient.processing.media import called_with, encode, expanded, feature_rows, main_field
from QEfficient.transformers.lowering.apply import LoweredModel
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.patches import results_noted


@dataclass(frozen=True)
class PartCall:
    """A call of a module that holds weights."""

    path: str
    """Of the module in the base model; "": its ``get_*_features``."""
    arguments: dict[str, Any]
    output: Any

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its arguments that are tensors."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}


def first_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What is there for the first image, where each has a row of every tensor."""
    return {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def run_whole(lowered: LoweredModel, modality: str, batch: Mapping[str, Any]) -> PartCall | None:
    """The whole method as a part; None where it looks at values of its inputs."""
    try:
        with _without_symbols(lowered), lowered.fake_mode:
            fakes = tree_map(lambda x: lowered.fake_mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, batch)
            output = encode(lowered.module, modality, fakes)
            feature_rows(output)
    except FAILURES:
        return None
    return PartCall("", dict(batch), output)


@contextmanager
def _without_symbols(lowered: LoweredModel) -> Iterator[None]:
    """Make fake tensors refuse to tell their values, instead of standing a symbol for them."""
    usual, lowered.fake_mode.shape_env = lowered.fake_mode.shape_env, None
    try:
        yield
    finally:
        lowered.fake_mode.shape_env = usual


@dataclass
class Run:
    """A run of an encoder."""

    calls: list[PartCall] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    """``id`` of the tensors that the code between the parts reads."""
    output: Any = None
    helped: list[torch.Tensor] = field(default_factory=list)
    """What transformers' helpers computed of the images' sizes."""

    def is_used(self, tensor: torch.Tensor) -> bool:
        """Whether a module or the code between the modules reads ``tensor``."""
        passed = (value for call in self.calls for value in expanded(call.arguments).values())
        return id(tensor) in self.read or any(value is tensor for value in passed)


class _ReadsValues(Exception):
    """A module's code depends on values of its inputs: the host runs it, around the modules inside."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


class _Readers(TorchDispatchMode):
    """Notes the tensors that operators read outside of parts, and selects by the masks whose values are known."""

    def __init__(self, run: Run, depth: list[nn.Module]):
        super().__init__()
        self.run, self.depth = run, depth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.depth:
            self.run.read |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            if func is torch.ops.aten.index.Tensor and not any(map(_is_fake_mask, args[1])):
                args = (args[0], [place for each in args[1] for place in _places_of(each)])
        return func(*args, **(kwargs or {}))


def _is_fake_mask(index: torch.Tensor | None) -> bool:
    return isinstance(index, FakeTensor) and index.dtype == torch.bool


def _places_of(index: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
    return index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool else [index]


def _run_with_values(lowered: LoweredModel, modality: str, batch: Mapping[str, Any], opened: frozenset[str]) -> Run:
    """Run the encoder with fake weights; its inputs are real, so that code may look at them."""
    run = Run()

    def note(result: Any) -> None:
        run.helped += [leaf for leaf in tree_leaves(result) if is_real(leaf)]

    noted = results_noted(lowered.module, "get_vision_", note)
    with (
        noted,
        _without_symbols(lowered),
        _outermost(lowered.module.base_model, run, opened) as depth,
        _Readers(run, depth),
    ):
        try:
            run.output = encode(lowered.module, modality, batch)
        except (DynamicOutputShapeException, DataDependentOutputException) as error:
            if not depth or not has_parts(depth[0]):
                raise
            raise _ReadsValues(_path(lowered.module.base_model, depth[0])) from error
    run.read |= {id(leaf) for leaf in tree_leaves(list(_plain(run.output))) if isinstance(leaf, torch.Tensor)}
    if not run.calls:
        raise UnsupportedModel(f"{type(lowered.module).__name__} encodes {modality}s without a module that has weights")
    return run


def has_parts(module: nn.Module) -> bool:
    return any(next(child.parameters(), None) is not None for child in module.children())


def _path(owner: nn.Module, module: nn.Module) -> str:
    return next(path for path, each in owner.named_modules() if each is module)


def _plain(output: Any) -> Iterator[Any]:
    for name in (main_field(output), "deepstack_features"):
        yield getattr(output, name, None)


@contextmanager
def _outermost(owner: nn.Module, run: Run, opened: frozenset[str]) -> Iterator[list[nn.Module]]:
    """Note the calls of modules with weights that no other module of ``owner`` makes, but for the ``opened`` ones;
    yields those that run now."""
    has_weights = {path for path, module in owner.named_modules() if next(module.parameters(), None) is not None}
    paths = {module: path for path, module in owner.named_modules() if path in has_weights - opened}
    depth: list[nn.Module] = []
    pending: list[dict[str, Any]] = []

    def begin(module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if module in paths:
            if not depth:
                pending.append(called_with(module.forward, args, kwargs or {}))
            depth.append(module)

    def end(module: nn.Module, args: Any, *rest: Any) -> None:
        if module in paths:
            depth.pop()
            if not depth:
                run.calls.append(PartCall(paths[module], pending.pop(), _snapshot(rest[-1])))

    hooks = []
    for module in paths:
        hooks.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        hooks.append(module.register_forward_hook(end, with_kwargs=True))
    try:
        yield depth
    finally:
        for hook in hooks:
            hook.remove()


def _snapshot(output: Any) -> Any:
    """An output with its lists copied: the code that gets it may change it."""
    if hasattr(output, "keys"):
        return {name: _snapshot(output[name]) for name in output.keys()}  # noqa: SIM118
    return [_snapshot(item) for item in output] if isinstance(output, list | tuple) else output


def run_opening(
    lowered: LoweredModel, modality: str, batches: Sequence[Mapping[str, Any]], opened: frozenset[str]
) -> tuple[list[Run], frozenset[str]]:
    """Run the encoder around the modules inside of those whose code depends on values; returns these too."""
    while True:
        try:
            return [_run_with_values(lowered, modality, batch, opened) for batch in batches], opened
        except _ReadsValues as reading:
            opened |= {reading.path}


def is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
