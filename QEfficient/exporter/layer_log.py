"""Records the operators that each layer of a graph runs, to tell which layers compute the same.

One step over fake tensors, without tracing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only

from QEfficient.transformers.tasks.graph_spec import TaskGraph

_MAX_CONSTANT = 64
"""Elements up to which a tensor made from Python numbers is compared by its content."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a tensor comes from."""

    kind: str
    """"weight", "input", "result", "constant" or "unknown"."""
    layer: int | None
    """Of a result: the layer that computed it; None: code between the layers."""
    name: Hashable
    """Path of a weight, name of an input, number of a result, content of a constant."""
    detail: Hashable = None
    """What else must be equal for two tensors to be alike."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor as an argument of an operator."""

    ref: Ref
    shape: tuple[int | str, ...]
    """A size that depends on data is its symbol."""
    dtype: torch.dtype


@dataclass
class LayerRun:
    """What one layer did in the step."""

    path: str
    inputs: list[Ref | None]
    """Each leaf of its arguments; None: no tensor."""
    outputs: list[Ref | None] = field(default_factory=list)
    """Each leaf of what it returned."""
    output_spec: TreeSpec | None = None
    operators: list[tuple[Hashable, ...]] = field(default_factory=list)
    """Name, structure and leaves of the arguments; tensors are :class:`Argument`."""
    writes_outside: bool = False
    """Whether it changed a tensor that it did not make."""


@dataclass
class LayerLog:
    """The layers of one list in the order in which they ran, and who used their results."""

    runs: list[LayerRun]
    users: dict[Ref, set[int | None]]
    """The layers that use a tensor; None: code between the layers."""
    graph_outputs: list[Ref | None]


def layer_lists(module: nn.Module, min_layers: int, path: str = "") -> Iterator[str]:
    """Paths of the lists of at least ``min_layers`` modules in ``module``; lists inside of a list are skipped."""
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList) and len(child) >= min_layers:
            yield child_path
        else:
            yield from layer_lists(child, min_layers, child_path)


def record(graph: TaskGraph, list_path: str, details: Mapping[int, Hashable]) -> LayerLog | None:
    """The log of the layers at ``list_path``; None if they do not run once each, in order.

    Args:
        graph: the graph to run; unchanged.
        list_path: path of a list of layers in its module.
        details: by id, what a weight or buffer must have in common with another layer's for the layers to be alike.
    """
    module = graph.module
    layers = [*module.get_submodule(list_path).children()]
    recorder = _Recorder(list_path)
    fake_mode = graph.lowered.fake_mode
    samples = [fake_mode.from_tensor(item.sample, static_shapes=True) for item in graph.inputs]
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        recorder.note(tensor, Ref("weight", None, name, details.get(id(tensor), id(tensor))))
    for item, sample in zip(graph.inputs, samples, strict=True):
        recorder.note(sample, Ref("input", None, item.name, tuple(sorted(item.axes.items()))))
    hooks = [layer.register_forward_pre_hook(recorder.enter, prepend=True, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(recorder.leave) for layer in layers]
    try:
        with fake_mode, torch.no_grad(), recorder:
            outputs = module(*samples)
    finally:
        for hook in hooks:
            hook.remove()
    if [run.path for run in recorder.runs if run.output_spec] != [f"{list_path}.{i}" for i in range(len(layers))]:
        return None
    return LayerLog(recorder.runs, dict(recorder.users), recorder.refs(tree_flatten(outputs)[0]))


class _Recorder(TorchDispatchMode):
    """Notes where every tensor comes from, and the operators inside the layers of one list."""

    def __init__(self, list_path: str):
        super().__init__()
        self.runs: list[LayerRun] = []
        self.users: defaultdict[Ref, set[int | None]] = defaultdict(set)
        self._list_path = list_path
        self._layer: int | None = None
        self._num_operators: Counter[int | None] = Counter()
        self._refs: dict[int, Ref] = {}
        self._makers: dict[int, int | None] = {}
        """The layer that allocated a storage."""
        self._alive: list[torch.Tensor] = []
        """Keeps the keys of ``_refs`` and ``_makers`` unique."""

    def note(self, tensor: torch.Tensor, ref: Ref) -> None:
        """Remember where ``tensor`` comes from."""
        self._refs[id(tensor)] = ref
        self._makers.setdefault(tensor.untyped_storage()._cdata, ref.layer)
        self._alive.append(tensor)

    def refs(self, leaves: list[Any]) -> list[Ref | None]:
        """Where ``leaves`` come from; None for what is no tensor."""
        return [self._ref(leaf) if isinstance(leaf, torch.Tensor) else None for leaf in leaves]

    def enter(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a layer runs."""
        self._layer = len(self.runs)
        path = f"{self._list_path}.{self._layer}"
        self.runs.append(LayerRun(path, self.refs(tree_flatten((args, kwargs))[0])))

    def leave(self, layer: nn.Module, args: Any, output: Any) -> None:
        """After a layer ran."""
        if self._layer is not None:
            leaves, spec = tree_flatten(output)
            self.runs[self._layer].outputs, self.runs[self._layer].output_spec = self.refs(leaves), spec
        self._layer = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        described, spec = tree_flatten(tree_map_only(torch.Tensor, self._use, (args, kwargs or {})))
        if self._layer is not None:
            run = self.runs[self._layer]
            run.operators.append((str(func), str(spec), *map(_plain, described)))
            run.writes_outside |= any(self._makers.get(storage) != self._layer for storage in _written(func, args))
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                self._num_operators[self._layer] += 1
                self.note(leaf, Ref("result", self._layer, self._num_operators[self._layer]))
        return result

    def _use(self, tensor: torch.Tensor) -> Argument:
        ref = self._ref(tensor)
        self.users[ref].add(self._layer)
        shape = tuple(size if isinstance(size, int) else str(size) for size in tensor.shape)
        return Argument(ref, shape, tensor.dtype)

    def _ref(self, tensor: torch.Tensor) -> Ref:
        if id(tensor) not in self._refs:
            constant = getattr(tensor, "constant", None)
            if constant is not None and constant.numel() <= _MAX_CONSTANT:
                return Ref("constant", None, str(constant.tolist()), constant.dtype)
            self.note(tensor, Ref("unknown", None, len(self._alive)))
        return self._refs[id(tensor)]


def _plain(leaf: Any) -> Hashable:
    return leaf if isinstance(leaf, Argument) else repr(leaf)


def _written(func: Any, args: Any) -> Iterator[int]:
    """The storages that an operator changes."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for argument, value in zip(schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.Tensor):
            yield value.untyped_storage()._cdata
