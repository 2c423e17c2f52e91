"""The graphs of the encoders of a model: which modules they are, and what they take and give.

Measured by running transformers' ``get_*_features`` over weightless copies, with a processor's real output for media
of several sizes: sizes that differ between them are the axes that vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from QEfficient.contract import DEEPSTACK, FEATURES, Json
from QEfficient.processing.media import (
    VARLEN,
    Outputs,
    encoder_inputs,
    expanded,
    feature_rows,
    flattened,
    grouped,
    split_images,
)
from QEfficient.processing.precomputed import precomputed
from QEfficient.transformers.lowering.apply import LoweredModel, lower
from QEfficient.transformers.lowering.media import FeatureForm
from QEfficient.transformers.patches import functions_replaced
from QEfficient.transformers.tasks.media_calls import PartCall, Run, first_rows, is_real, run_opening, run_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GRAPHS = {"image": "vision"}
"""Names of graphs, where they are upstream's."""
PIPED = ""
"""In place of the name of an input: what the step before gave."""


@dataclass(frozen=True)
class SizeOf:
    """A number that is the size of an argument's axis."""

    name: str
    axis: int


@dataclass(frozen=True)
class PartStep:
    """A call of a module in a graph."""

    path: str
    """Of the module in the base model; "": its ``get_*_features``, run for one image at a time."""
    constants: dict[str, Any]
    """Arguments that are no tensors."""
    sources: dict[str, str]
    """Arguments that are tensors, and the input of the graph that each is, or :data:`PIPED`."""
    form: Any
    """Of its outputs, see :func:`QEfficient.processing.media.flattened`."""

    @property
    def piped(self) -> str | None:
        """The argument that the step before gives."""
        return next((name for name, source in self.sources.items() if source == PIPED), None)


@dataclass(frozen=True)
class MediaPart:
    """A graph of an encoder: modules that run one after the other, each on the output of the one before."""

    name: str
    modality: str
    steps: tuple[PartStep, ...]
    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    """Names of the axes of inputs and outputs that vary; equal sizes have equal names."""
    outputs: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of its first module."""
        return self.steps[0].path


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
    def reads_text(self) -> bool:
        """Whether a graph takes the prompt's text too."""
        return any(name.endswith("input_ids") for part in self.parts for name in part.inputs)

    @property
    def tells_sizes(self) -> bool:
        """Whether its graphs tell an image's size from that of their inputs."""
        return any(
            isinstance(leaf, SizeOf)
            for part in self.parts
            for step in part.steps
            for leaf in tree_leaves(step.constants)
        )


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
        whole = [run_whole(lowered, modality, first_rows(batch)) for batch in batches]
        if all(whole):
            return _encoder_of_method(modality, whole)  # type: ignore[arg-type]
        if sum(1 for _ in split_images(batches[0])) > 1:
            batches = batches[1:]  # the host encodes one image at a time
        opened: frozenset[str] = frozenset()
        while True:
            runs, opened = run_opening(lowered, modality, batches, opened)
            encoder, sized = _encoder_of_modules(lowered, modality, runs)
            if not sized:
                return encoder
            opened |= sized  # its code depends on the size of an image: the host runs it, around the modules inside


def _encoder_of_method(modality: str, calls: list[PartCall]) -> MediaEncoder:
    first = calls[0]
    inputs = first.tensors()
    constants = {n: v for n, v in first.arguments.items() if n not in inputs}
    part = MediaPart(
        name=_GRAPHS.get(modality, modality),
        modality=modality,
        steps=(PartStep("", constants, {name: name for name in inputs}, None),),
        inputs=inputs,
        axes=axes_that_vary([{**call.tensors(), **features_of(call.output)} for call in calls]),
        outputs=tuple(features_of(first.output)),
    )
    return MediaEncoder(modality, (part,), FeatureForm.of(first.output))


@dataclass(frozen=True)
class _Call:
    """A call of a module, with tensors of lists and those of transformers' exporters among its arguments."""

    run: Run
    arguments: dict[str, Any]
    leaves: list[torch.Tensor]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}

    @property
    def others(self) -> dict[str, Any]:
        return {name: value for name, value in self.arguments.items() if not isinstance(value, torch.Tensor)}


@dataclass(frozen=True)
class _Measured:
    """A module with weights, and its calls in runs for several media."""

    path: str
    module: nn.Module
    calls: list[_Call]
    form: Any

    @classmethod
    def of(cls, base: nn.Module, path: str, runs: Sequence[Run]) -> _Measured:
        noted = [(run, call) for run in runs for call in run.calls if call.path == path]
        structure = repr(tree_flatten(noted[-1][1].output)[1])
        # With several media some return a list with an item for each.
        noted = [(run, call) for run, call in noted if repr(tree_flatten(call.output)[1]) == structure]
        run, call = noted[0]
        form = flattened(call.output, [], run.is_used)
        module = base.get_submodule(path)
        calls = [
            _Call(run, expanded(precomputed(module, call.arguments)), leaves_of(form, call.output))
            for run, call in noted
        ]
        return cls(path, module, calls, form)

    def constants(self) -> dict[str, Any] | None:
        return _constants([call.others for call in self.calls], [call.tensors for call in self.calls])

    def depends_on_sizes(self, lowered: LoweredModel) -> bool:
        """Whether its code depends on sizes that are no tensors."""
        if self.constants() is None:
            return True
        if next(self.module.children(), None) is None:
            return False
        return any(map(_computes_others, self.calls)) or _branches_on_values(lowered, self.module, self.calls[0])


def _encoder_of_modules(lowered: LoweredModel, modality: str, runs: list[Run]) -> tuple[MediaEncoder, frozenset[str]]:
    """The encoder, and the paths of modules whose code depends on sizes that are no tensors."""
    base, last = lowered.module.base_model, runs[-1]
    paths = dict.fromkeys(call.path for run in runs for call in run.calls)
    measured = [_Measured.of(base, path, runs) for path in paths]
    sized = frozenset(module.path for module in measured if module.depends_on_sizes(lowered))
    busy = [module for module in measured if module.calls[0].leaves]
    idle = {module.path: module.form for module in measured if not module.calls[0].leaves}
    parts = [] if sized else [_part(modality, at, chain) for at, chain in enumerate(_chains(busy))]
    read = {name for name, parameter in base.named_parameters() if id(parameter) in last.read}
    encoder = MediaEncoder(modality, tuple(parts), FeatureForm.of(last.output), tuple(sorted(read)), idle)
    return encoder, sized


def _chains(modules: Sequence[_Measured]) -> list[list[_Measured]]:
    """Modules in groups that are a graph each: such as run on nothing but what the one before gives."""
    chains: list[list[_Measured]] = []
    for module in modules:
        if chains and _follows(chains[-1], module):
            chains[-1].append(module)
        else:
            chains.append([module])
    return chains


def _follows(chain: Sequence[_Measured], module: _Measured) -> bool:
    """Whether ``module`` takes the output of the last of ``chain``, which nothing else takes, and else what the first
    takes."""
    first, last = chain[0].calls, chain[-1].calls
    runs = [call.run for call in module.calls]
    if len({id(run) for run in runs}) < len(runs) or any(
        [id(call.run) for call in calls] != [*map(id, runs)] for calls in (first, last)
    ):
        return False
    return len({_piped(before, call) for before, call in zip(last, module.calls, strict=True)} - {None}) == 1 and all(
        _is_passed_on(before, call) and {*_shared(begin, call)} | {_piped(before, call)} == call.tensors.keys()
        for begin, before, call in zip(first, last, module.calls, strict=True)
    )


def _is_passed_on(before: _Call, call: _Call) -> bool:
    """Whether ``call`` alone takes the output of the call ``before``."""
    run, (output, *more) = before.run, before.leaves
    takers = [value for each in run.calls for value in expanded(each.arguments).values() if value is output]
    return not more and len(takers) == 1 and id(output) not in run.read and _piped(before, call) is not None


def _piped(before: _Call, call: _Call) -> str | None:
    return next((name for name, value in call.tensors.items() if value is before.leaves[0]), None)


def _shared(begin: _Call, call: _Call) -> dict[str, str]:
    """Arguments of ``call`` that are arguments of the call ``begin`` too, and their names there."""
    names = {id(value): name for name, value in begin.tensors.items()}
    return {name: names[id(value)] for name, value in call.tensors.items() if id(value) in names}


def _part(modality: str, number: int, chain: Sequence[_Measured]) -> MediaPart:
    graph = _GRAPHS.get(modality, modality)
    name = f"{graph}_{number}" if number else graph
    first, last = chain[0].calls, chain[-1].calls
    steps = []
    for before, module in zip([None, *chain], chain, strict=False):
        sources = _shared(first[0], module.calls[0])
        if before is not None:
            sources[_piped(before.calls[0], module.calls[0])] = PIPED  # type: ignore[index]
        steps.append(PartStep(module.path, module.constants() or {}, sources, module.form))
    outputs = [_numbered(name, call.leaves) for call in last]
    axes = axes_that_vary([call.tensors | leaves for call, leaves in zip(first, outputs, strict=True)])
    return MediaPart(name, modality, tuple(steps), first[0].tensors, axes, tuple(outputs[0]))


def _computes_others(call: _Call) -> bool:
    """Whether transformers' exporters compute an argument from an image's size otherwise than the module itself."""
    run = call.run
    for value in call.tensors.values():
        if not is_real(value) or value.is_floating_point():
            continue
        alike = [each for each in run.helped if each.shape == value.shape and each.dtype == value.dtype]
        passed = any(value is leaf for each in run.calls for leaf in expanded(each.arguments).values())
        if alike and not passed and not any(torch.equal(each, value) for each in alike):
            return True
    return False


def _branches_on_values(lowered: LoweredModel, module: nn.Module, call: _Call) -> bool:
    """Whether what a module runs depends on values of its inputs, so that it cannot be traced."""
    try:
        with lowered.fake_mode, torch.no_grad():
            fakes = {n: lowered.fake_mode.from_tensor(v) if is_real(v) else v for n, v in call.arguments.items()}
            module(**grouped(fakes))
    except RuntimeError:  # of branches on sizes, and of operators that need them as numbers
        return True
    return False


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


def leaves_of(form: Json, output: Outputs) -> list[torch.Tensor]:
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


def part_sizes(
    model: PreTrainedModel, encoder: MediaEncoder, sample: Mapping[str, Any]
) -> dict[str, list[dict[str, int]]]:
    """Sizes of the named axes of each part, in each of its calls for a processor's output of one image."""
    batch, lowered = encoder_inputs(model, encoder.modality, sample), lower(model, "retained")
    with functions_replaced(lowered.module, VARLEN):
        if not encoder.parts[0].path:
            whole = run_whole(lowered, encoder.modality, first_rows(batch))
            assert whole is not None
            (part,) = encoder.parts
            return {part.name: [_sizes(part, {**whole.tensors(), **features_of(whole.output)})]}
        opened = frozenset(owner for part in encoder.parts for step in part.steps for owner in _owners(step.path))
        runs, _ = run_opening(lowered, encoder.modality, [batch], opened)
    base = lowered.module.base_model
    sizes = {}
    for part in encoder.parts:
        first, last = (_Measured.of(base, step.path, runs).calls for step in (part.steps[0], part.steps[-1]))
        pairs = zip(first, last, strict=True)
        sizes[part.name] = [_sizes(part, a.tensors | _numbered(part.name, b.leaves)) for a, b in pairs]
    return sizes


def _sizes(part: MediaPart, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensors[key].shape[axis] for key, axes in part.axes.items() for axis, name in axes.items()}


def _owners(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def features_of(output: Outputs) -> dict[str, torch.Tensor]:
    """The outputs of a graph that is a whole encoder."""
    rows, layers = feature_rows(output)
    stacked = {DEEPSTACK: torch.stack(layers)} if layers else {}
    return stacked if rows is None else {FEATURES: rows, **stacked}


def _numbered(name: str, leaves: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a graph that is a module."""
    return {f"{name}_output_{number}": leaf for number, leaf in enumerate(leaves)}
