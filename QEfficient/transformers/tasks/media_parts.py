"""The graphs of the encoders of a model: which modules they are, and what they take and give.

Measured by running transformers' ``get_*_features`` once over weightless copies, with a processor's real output for two
media of different sizes: sizes that differ between the two are the axes that vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from QEfficient.contract import DEEPSTACK, FEATURES
from QEfficient.errors import UnsupportedModel
from QEfficient.processing.media import (
    VARLEN,
    called_with,
    encode,
    encoder_inputs,
    expanded,
    feature_rows,
    flattened,
    grouped,
    main_field,
    split_images,
)
from QEfficient.processing.precomputed import precomputed
from QEfficient.transformers.lowering.apply import LoweredModel, lower
from QEfficient.transformers.lowering.media import FeatureForm
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.patches import functions_replaced, results_noted
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GRAPHS = {"image": "vision"}
"""Names of graphs, where they are upstream's."""


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


@dataclass(frozen=True)
class MediaPart:
    """A graph of an encoder."""

    name: str
    path: str
    """Of the module in the base model; "": its ``get_*_features``, run for one image at a time."""
    modality: str
    constants: dict[str, Any]
    """Arguments that are no tensors."""
    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    """Names of the axes of inputs and outputs that vary; equal sizes have equal names."""
    form: Any
    """Of its outputs, see :func:`QEfficient.processing.media.flattened`."""
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class MediaEncoder:
    """How a modality is encoded."""

    modality: str
    parts: tuple[MediaPart, ...]
    feature_form: FeatureForm
    host_parameters: tuple[str, ...] = ()
    """Parameters that the code between the parts reads."""
    idle: dict[str, Any] = field(default_factory=dict)
    """Modules that need not run, as nothing reads their outputs: their paths, and the forms of these."""

    @property
    def tells_sizes(self) -> bool:
        """Whether its graphs tell an image's size from that of their inputs."""
        return any(isinstance(leaf, SizeOf) for part in self.parts for leaf in tree_leaves(part.constants))


def media_encoder(model: PreTrainedModel, modality: str, samples: Sequence[Mapping[str, Any]]) -> MediaEncoder | None:
    """How ``modality`` is encoded; None if the model or the samples do not have it.

    Args:
        model: a Hugging Face model; not changed.
        modality: "image", "video" or "audio".
        samples: a processor's output for media of different sizes, the first for two of one size
            in one prompt.

    Raises:
        UnsupportedModel: the encoder cannot run without weights.
    """
    batches = [encoder_inputs(model, modality, sample) for sample in samples]
    if not all(batches):
        return None
    lowered = lower(model, "retained")
    with functions_replaced(lowered.module, VARLEN):
        whole = [_run_whole(lowered, modality, first_rows(batch)) for batch in batches]
        if all(whole):
            return _encoder_of_method(modality, whole)  # type: ignore[arg-type]
        if sum(1 for _ in split_images(batches[0])) > 1:
            batches = batches[1:]  # the host encodes one image at a time
        opened: frozenset[str] = frozenset()
        while True:
            runs, opened = _run_opening(lowered, modality, batches, opened)
            encoder, sized = _encoder_of_modules(lowered, modality, runs)
            if not sized:
                return encoder
            opened |= sized  # its code depends on the size of an image: the host runs it, around the modules inside


def first_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What is there for the first image, where each has a row of every tensor."""
    return {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _run_whole(lowered: LoweredModel, modality: str, batch: Mapping[str, Any]) -> PartCall | None:
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
class _Run:
    """A run of an encoder."""

    calls: list[PartCall] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    """``id`` of the tensors that the code between the parts reads."""
    output: Any = None
    helped: list[torch.Tensor] = field(default_factory=list)
    """What transformers' helpers computed of the images' sizes."""


class _ReadsValues(Exception):
    """A module's code depends on values of its inputs: the host runs it, around the modules inside."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


class _Readers(TorchDispatchMode):
    """Notes the tensors that operators read outside of parts, and selects by the masks whose values are known."""

    def __init__(self, run: _Run, depth: list[nn.Module]):
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


def _run_with_values(lowered: LoweredModel, modality: str, batch: Mapping[str, Any], opened: frozenset[str]) -> _Run:
    """Run the encoder with fake weights; its inputs are real, so that code may look at them."""
    run = _Run()

    def note(result: Any) -> None:
        run.helped += [leaf for leaf in tree_leaves(result) if _is_real(leaf)]

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
            if not depth or not _has_parts(depth[0]):
                raise
            raise _ReadsValues(_path(lowered.module.base_model, depth[0])) from error
    run.read |= {id(leaf) for leaf in tree_leaves(list(_plain(run.output))) if isinstance(leaf, torch.Tensor)}
    if not run.calls:
        raise UnsupportedModel(f"{type(lowered.module).__name__} encodes {modality}s without a module that has weights")
    return run


def _has_parts(module: nn.Module) -> bool:
    return any(next(child.parameters(), None) is not None for child in module.children())


def _path(owner: nn.Module, module: nn.Module) -> str:
    return next(path for path, each in owner.named_modules() if each is module)


def _plain(output: Any) -> Iterator[Any]:
    for name in (main_field(output), "deepstack_features"):
        yield getattr(output, name, None)


@contextmanager
def _outermost(owner: nn.Module, run: _Run, opened: frozenset[str]) -> Iterator[list[nn.Module]]:
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


def _encoder_of_method(modality: str, calls: list[PartCall]) -> MediaEncoder:
    first = calls[0]
    part = MediaPart(
        name=_GRAPHS.get(modality, modality),
        path="",
        modality=modality,
        constants={n: v for n, v in first.arguments.items() if not isinstance(v, torch.Tensor)},
        inputs=first.tensors(),
        axes=axes_that_vary([{**call.tensors(), **_features(call.output)} for call in calls]),
        form=None,
        outputs=tuple(_features(first.output)),
    )
    return MediaEncoder(modality, (part,), FeatureForm.of(first.output))


def _encoder_of_modules(lowered: LoweredModel, modality: str, runs: list[_Run]) -> tuple[MediaEncoder, frozenset[str]]:
    """The encoder, and the paths of modules whose code depends on sizes that are no tensors."""
    first = runs[0]
    parts: list[MediaPart] = []
    idle: dict[str, Any] = {}
    sized: set[str] = set()
    base = lowered.module.base_model
    every = [call for run in runs for call in run.calls]
    for path in dict.fromkeys(call.path for call in first.calls):
        calls = [call for call in every if call.path == path]
        call = calls[0]
        module = base.get_submodule(call.path)
        arguments = [expanded(precomputed(module, each.arguments)) for each in calls]
        tensors = [{n: v for n, v in each.items() if isinstance(v, torch.Tensor)} for each in arguments]
        leaves: list[torch.Tensor] = []
        form = flattened(call.output, leaves, lambda leaf: id(leaf) in first.read or _is_argument(leaf, first.calls))
        if not leaves:
            idle[path] = form
            continue
        graph = _GRAPHS.get(modality, modality)
        name = graph if not parts else f"{graph}_{len(parts)}"
        outputs = [_numbered(name, _leaves(form, each.output)) for each in calls]
        others = [{n: v for n, v in each.items() if not isinstance(v, torch.Tensor)} for each in arguments]
        constants, axes = (
            _constants(others, tensors),
            axes_that_vary([i | o for i, o in zip(tensors, outputs, strict=True)]),
        )
        if _has_parts(module) and any(_computes_others(run, each) for run, each in zip(runs, arguments, strict=False)):
            sized.add(call.path)
        if constants is None or (_has_parts(module) and _branches_on_values(lowered, module, arguments[0])):
            sized.add(call.path)
            constants = others[0]
        parts.append(MediaPart(name, call.path, modality, constants, tensors[0], axes, form, tuple(outputs[0])))
    read = {name for name, parameter in base.named_parameters() if id(parameter) in first.read}
    encoder = MediaEncoder(modality, tuple(parts), FeatureForm.of(first.output), tuple(sorted(read)), idle)
    return encoder, frozenset(sized)


def _computes_others(run: _Run, arguments: Mapping[str, Any]) -> bool:
    """Whether transformers' exporters compute an argument from an image's size otherwise than the module itself."""
    for value in arguments.values():
        if not _is_real(value) or value.is_floating_point():
            continue
        alike = [each for each in run.helped if each.shape == value.shape and each.dtype == value.dtype]
        passed = any(value is leaf for call in run.calls for leaf in expanded(call.arguments).values())
        if alike and not passed and not any(torch.equal(each, value) for each in alike):
            return True
    return False


def _branches_on_values(lowered: LoweredModel, module: nn.Module, arguments: Mapping[str, Any]) -> bool:
    """Whether what a module runs depends on values of its inputs, so that it cannot be traced."""
    try:
        with lowered.fake_mode, torch.no_grad():
            fakes = {n: lowered.fake_mode.from_tensor(v) if _is_real(v) else v for n, v in arguments.items()}
            module(**grouped(fakes))
    except RuntimeError:  # of branches on sizes, and of operators that need them as numbers
        return True
    return False


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)


def _is_argument(leaf: torch.Tensor, calls: list[PartCall]) -> bool:
    return any(value is leaf for call in calls for value in expanded(call.arguments).values())


@dataclass(frozen=True)
class SizeOf:
    """A number that is the size of an input's axis."""

    name: str
    axis: int


def _constants(calls: list[dict[str, Any]], tensors: list[dict[str, torch.Tensor]]) -> dict[str, Any] | None:
    """The arguments of calls that are no tensors, with sizes of tensors named; None where they differ otherwise."""
    leaves = [tree_flatten(call) for call in calls]
    if len({repr(form) for _, form in leaves}) > 1:
        return None
    named: list[Any] = []
    for values in zip(*(each for each, _ in leaves), strict=True):
        if len({repr(value) for value in values}) == 1:
            named.append(values[0])
            continue
        size = next((place for place in _places(tensors[0]) if _is_size(place, values, tensors)), None)
        if size is None:
            return None
        named.append(size)
    constants: dict[str, Any] = tree_unflatten(named, leaves[0][1])
    return constants


def _places(tensors: dict[str, torch.Tensor]) -> Iterator[SizeOf]:
    for name, tensor in tensors.items():
        yield from (SizeOf(name, axis) for axis in range(tensor.ndim))


def _is_size(place: SizeOf, values: tuple[Any, ...], tensors: list[dict[str, torch.Tensor]]) -> bool:
    sizes = [call[place.name].shape[place.axis] for call in tensors if place.name in call]
    return len(sizes) == len(values) and all(type(value) is int for value in values) and sizes == [*values]


def axes_that_vary(calls: list[dict[str, torch.Tensor]]) -> dict[str, dict[int, str]]:
    """Names of the axes whose size differs between calls; equal sizes have equal names."""
    names: dict[tuple[int, ...], str] = {}
    axes: dict[str, dict[int, str]] = {}
    for name, tensor in calls[0].items():
        shapes = [call[name].shape for call in calls if name in call]
        for axis in range(tensor.ndim):
            sizes = tuple(shape[axis] for shape in shapes)
            if len({*sizes}) > 1:
                axes.setdefault(name, {})[axis] = names.setdefault(sizes, f"{name}_{axis}")
    return axes


class _Part(nn.Module):
    """A part, called with its tensors in order; returns the tensors that are read."""

    def __init__(self, model: nn.Module, part: MediaPart):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        part, base = self.part, self.model.base_model
        tensors = dict(zip(part.inputs, inputs, strict=True))
        with functions_replaced(self.model, VARLEN):
            if not part.path:
                features = _features(encode(self.model, part.modality, {**part.constants, **tensors}))
                return tuple(each.float() for each in features.values())
            constants = tree_map(
                lambda x: tensors[x.name].shape[x.axis] if isinstance(x, SizeOf) else x, part.constants
            )
            output = base.get_submodule(part.path)(**constants, **grouped(tensors))
        leaves = _leaves(part.form, output)
        return tuple(leaf.float() if leaf.is_floating_point() else leaf.to(torch.int64) for leaf in leaves)


def _leaves(form: Any, output: Any) -> list[torch.Tensor]:
    """The tensors of ``output`` at the places of ``form``, in the order of their numbers."""
    leaves: dict[int, torch.Tensor] = {}

    def visit(form: Any, value: Any) -> None:
        if isinstance(form, int):
            leaves[form] = value
        elif isinstance(form, dict):
            for name, item in form.items():
                if item is not None:
                    visit(item, value[name])
        elif isinstance(form, list):
            for item, each in zip(form, value, strict=True):
                visit(item, each)

    visit(form, output)
    return [leaves[number] for number in sorted(leaves)]


def part_graph(model: PreTrainedModel, part: MediaPart) -> TaskGraph:
    """The graph of a part of an encoder. Axes: those of the part."""
    lowered = lower(model, "retained")
    samples = {name: _sample(tensor) for name, tensor in part.inputs.items()}
    return TaskGraph(
        module=_Part(lowered.module, part).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=0,
        inputs=[GraphInput(name, sample, part.axes.get(name, {})) for name, sample in samples.items()],
        output_names=[*part.outputs],
        output_axes={name: part.axes[name] for name in part.outputs if name in part.axes},
        has_related_axes=True,
    )


def part_sizes(model: PreTrainedModel, part: MediaPart, sample: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the named axes of a part, for a processor's output of one image."""
    call = _part_call(model, part, sample)
    tensors = {**call.tensors(), **call.output}
    return {name: tensors[key].shape[axis] for key, axes in part.axes.items() for axis, name in axes.items()}


def _part_call(model: PreTrainedModel, part: MediaPart, sample: Mapping[str, Any]) -> PartCall:
    """A call of a part, with tensors by the names of its graph."""
    batch, lowered = encoder_inputs(model, part.modality, sample), lower(model, "retained")
    with functions_replaced(lowered.module, VARLEN):
        if not part.path:
            whole = _run_whole(lowered, part.modality, first_rows(batch))
            assert whole is not None
            return replace(whole, output=_features(whole.output))
        (run,), _ = _run_opening(lowered, part.modality, [batch], frozenset(_owners(part.path)))
    call = next(call for call in run.calls if call.path == part.path)
    arguments = expanded(precomputed(lowered.module.base_model.get_submodule(part.path), call.arguments))
    return PartCall(part.path, arguments, _numbered(part.name, _leaves(part.form, call.output)))


def _run_opening(
    lowered: LoweredModel, modality: str, batches: Sequence[Mapping[str, Any]], opened: frozenset[str]
) -> tuple[list[_Run], frozenset[str]]:
    """Run the encoder around the modules inside of those whose code depends on values; returns these too."""
    while True:
        try:
            return [_run_with_values(lowered, modality, batch, opened) for batch in batches], opened
        except _ReadsValues as reading:
            opened |= {reading.path}


def _owners(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def _features(output: Any) -> dict[str, torch.Tensor]:
    """The outputs of a graph that is a whole encoder."""
    rows, layers = feature_rows(output)
    stacked = {DEEPSTACK: torch.stack(layers)} if layers else {}
    return stacked if rows is None else {FEATURES: rows, **stacked}


def _numbered(name: str, leaves: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a graph that is a module."""
    return {f"{name}_output_{number}": leaf for number, leaf in enumerate(leaves)}


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tuple(tensor.shape), dtype=torch.float32) if tensor.is_floating_point() else tensor.clone()
