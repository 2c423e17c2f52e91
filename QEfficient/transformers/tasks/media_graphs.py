"""The graphs of the parts of an encoder, ready to trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_map

from QEfficient.processing.media import VARLEN, encode, grouped
from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.patches import functions_replaced
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.media_parts import PIPED, MediaPart, PartStep, SizeOf, features_of, leaves_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Part(nn.Module):
    """A part, called with its tensors in order; returns the tensors that are read."""

    def __init__(self, model: nn.Module, part: MediaPart):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = dict(zip(self.part.inputs, inputs, strict=True))
        with functions_replaced(self.model, VARLEN):
            leaves: list[torch.Tensor] = []
            for step in self.part.steps:
                passed = {n: leaves[0] if source == PIPED else tensors[source] for n, source in step.sources.items()}
                leaves = self._run(step, passed)
        return tuple(leaf.float() if leaf.is_floating_point() else leaf.to(torch.int64) for leaf in leaves)

    def _run(self, step: PartStep, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        constants = tree_map(lambda x: tensors[x.name].shape[x.axis] if isinstance(x, SizeOf) else x, step.constants)
        if not step.path:
            return [*features_of(encode(self.model, self.part.modality, {**constants, **tensors})).values()]
        output = self.model.base_model.get_submodule(step.path)(**constants, **grouped(tensors))
        return leaves_of(step.form, output)


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


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tuple(tensor.shape), dtype=torch.float32) if tensor.is_floating_point() else tensor.clone()


_ROWS = 2


def has_independent_rows(model: PreTrainedModel, part: MediaPart) -> bool:
    """Whether a part makes of each row of its inputs some rows of its outputs, so that rows may come in several runs.

    One row of all inputs is NaN: it reaches the outputs of the other where these depend on it. The weights are one
    number, which takes no memory.
    """
    rows = {part.axes.get(name, {}).get(0, tensor.shape[:1]) for name, tensor in part.inputs.items()}
    if not part.path or len(rows) != 1:
        return False
    return all(_is_apart(model, part, row) for row in range(_ROWS))


def _is_apart(model: PreTrainedModel, part: MediaPart, row: int) -> bool:
    """Whether no output depends on the floating-point inputs of ``row`` but ``row`` itself."""
    lowered = lower(model, "retained")
    tensors = [_with_nan(tensor, row) for tensor in part.inputs.values()]
    weights = {**dict(lowered.module.named_parameters()), **dict(lowered.module.named_buffers())}
    module = _Part(lowered.module, part).eval()
    stand_ins = {f"model.{name}": _stand_in(value) for name, value in weights.items()}
    try:
        with torch.no_grad():
            outputs = torch.func.functional_call(module, stand_ins, tuple(tensors))
    except FAILURES:
        return False
    others = torch.arange(_ROWS) != row
    if not all(leaf.is_floating_point() and len(leaf) % _ROWS == 0 for leaf in outputs):
        return False
    return all(bool(leaf.unflatten(0, (_ROWS, -1))[others].isfinite().all()) for leaf in outputs)


def _stand_in(value: torch.Tensor) -> torch.Tensor:
    number = 0.01 if value.is_floating_point() else 0
    return torch.full((), number, dtype=torch.float32 if number else value.dtype).expand(value.shape)


def _with_nan(tensor: torch.Tensor, row: int) -> torch.Tensor:
    shape = (_ROWS, *tensor.shape[1:])
    if not tensor.is_floating_point():
        return torch.ones(shape, dtype=tensor.dtype)
    values = torch.full(shape, 0.5)
    values[row] = torch.nan
    return values
