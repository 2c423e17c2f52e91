"""The inputs of a graph that runs one step over a model's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from QEfficient.contract import RETAINED
from QEfficient.transformers.lowering.cache_spec import CTX_LEN, ROWS, StateSpec
from QEfficient.transformers.tasks.graph_spec import Axes, GraphInput

# All sample sizes differ, from each other and from the sizes of a model, so that axes cannot be confused.
SAMPLE_CTX_LEN, SAMPLE_SEQ_LEN = 29, 7
_SAMPLE_BATCH, _SAMPLE_STATE_ROWS = 3, 5


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a step, in the order of the graph."""

    step: list[GraphInput]
    """Tokens, positions and what else every step brings."""
    state: list[GraphInput]
    """The state of all layers."""
    extra: list[GraphInput]
    """What the options of ``compile`` ask for, by the names of the module's optional arguments."""

    @property
    def in_order(self) -> list[GraphInput]:
        """All of them."""
        return [*self.step, *self.state, *self.extra]

    @property
    def new_state_axes(self) -> dict[str, Axes]:
        """The state's outputs, in order, with their axes."""
        return {f"{tensor.name}{RETAINED}": tensor.axes for tensor in self.state}

    def flatten(self, module: nn.Module) -> nn.Module:
        """``module``, called as ``module(*step, state, **extra)``, with its state as a flat list of inputs and outputs
        and float32 logits."""
        names = [graph_input.name for graph_input in self.extra]
        return _FlatStep(module, len(self.step), len(self.state), names).eval()


class _FlatStep(nn.Module):
    def __init__(self, inner: nn.Module, num_step: int, num_states: int, extra_names: list[str]):
        super().__init__()
        self.inner = inner
        self.num_step, self.num_states = num_step, num_states
        self.extra_names = extra_names

    def forward(self, *inputs: torch.Tensor) -> tuple[Any, ...]:
        step, rest = inputs[: self.num_step], inputs[self.num_step :]
        extra = dict(zip(self.extra_names, rest[self.num_states :], strict=True))
        logits, *others, state = self.inner(*step, rest[: self.num_states], **extra)
        return (logits.float(), *others, *state)


def token_inputs() -> list[GraphInput]:
    """``input_ids`` and ``position_ids``, ``[B, S]``."""
    axes = {0: "batch_size", 1: "seq_len"}
    return [
        GraphInput("input_ids", torch.zeros(_SAMPLE_BATCH, SAMPLE_SEQ_LEN, dtype=torch.int64), axes),
        GraphInput("position_ids", torch.arange(SAMPLE_SEQ_LEN).repeat(_SAMPLE_BATCH, 1), axes),
    ]


def batch_index_input() -> GraphInput:
    """``batch_index [B, 1]``, the state row of each batch row (continuous batching)."""
    return GraphInput("batch_index", torch.arange(_SAMPLE_BATCH)[:, None], {0: "batch_size"})


def state_inputs(specs: list[StateSpec], continuous_batching: bool, ctx_len: int | None = None) -> list[GraphInput]:
    """The state of all layers as inputs of a graph, in order: ``past_key.i``, ``conv_state.i`` and so on.

    Args:
        specs: what each layer keeps.
        continuous_batching: whether the state has ``full_batch_size`` rows instead of one for each row of the batch.
        ctx_len: context length, where it is fixed and not an axis.
    """
    row_axis = "full_batch_size" if continuous_batching else "batch_size"
    fixed = {} if ctx_len is None else {CTX_LEN: ctx_len}
    samples = {ROWS: _SAMPLE_STATE_ROWS if continuous_batching else _SAMPLE_BATCH} | fixed
    inputs = []
    for index, spec in enumerate(specs):
        for tensor in spec.tensors:
            named = [size for size in tensor.shape if isinstance(size, str)]
            samples |= {
                name: SAMPLE_CTX_LEN - 6 * len(samples.keys() - {ROWS}) for name in named if name not in samples
            }
            shape = [samples[size] if isinstance(size, str) else size for size in tensor.shape]
            varying = [(axis, size) for axis, size in enumerate(tensor.shape) if isinstance(size, str)]
            axes = {axis: size for axis, size in varying if size not in fixed}
            dtype = torch.int64 if spec.kind == "tokens" else torch.float32
            inputs.append(GraphInput(f"{tensor.name}.{index}", torch.zeros(shape, dtype=dtype), axes | {0: row_axis}))
    return inputs
