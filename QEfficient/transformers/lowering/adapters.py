"""LoRA inside a model: what it adds to the outputs of linear layers, through their forward hooks.

A layer stays the module that it is, with its name and its weight; the matrices of its adapters are a child of it. Which
adapter a row runs with is the step's, so that one graph serves prompts with different adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional

from QEfficient.errors import UnsupportedModel


@dataclass(frozen=True, eq=False)
class AdapterStep:
    """The adapters of one step."""

    ids: torch.Tensor | None = None
    """Of each row ``[B, 1]`` or, in a ragged batch, of each token ``[1, T]``; 0 is the base model."""
    step_len: int | torch.SymInt = 1
    """Tokens of a row."""
    is_ragged: bool = False
    head_ids: torch.Tensor | None = None
    """Of the tokens that the LM head sees, if it does not see all of a ragged batch."""
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """The two matrices of the adapter that all rows run with, by the layer's path."""


_STEP: ContextVar[AdapterStep] = ContextVar("adapter_step")


@contextmanager
def running_adapters(step: AdapterStep) -> Iterator[None]:
    """Make ``step`` the current one, in this context only."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


class SelectedLora(nn.Module):
    """The matrices of several adapters for one layer, of which each row selects one.

    The adapters' ranks are concatenated. All are computed, and what is not the row's is dropped between the two
    products: they are small, and a gather of matrices for each row or token would move more than it saves.

    Args:
        down: ``[R, in]``, the first matrices of all adapters below each other.
        up: ``[out, R]``, the second ones side by side.
        adapter_of_rank: ``[R]``, which adapter each of the R ranks belongs to, from 1 on.
        is_head: whether the layer is the LM head.
    """

    adapter_of_rank: torch.Tensor

    def __init__(self, down: nn.Parameter, up: nn.Parameter, adapter_of_rank: torch.Tensor, is_head: bool):
        super().__init__()
        self.down, self.up = down, up
        self.is_head = is_head
        self.register_buffer("adapter_of_rank", adapter_of_rank)

    def forward(self, hidden: torch.Tensor, step: AdapterStep) -> torch.Tensor:
        """What to add for ``hidden``: ``[B, ..., in]``, ``[B * S, in]``, or ``[..., T, ..., in]`` of a ragged batch.

        Raises:
            UnsupportedModel: the layer sees something else than the step's tokens.
        """
        ids, axis = self._ids(hidden, step)
        shape = [1] * hidden.ndim
        shape[axis] = -1
        projected = functional.linear(hidden, self.down)
        return functional.linear(torch.where(ids.reshape(shape) == self.adapter_of_rank, projected, 0.0), self.up)

    def _ids(self, hidden: torch.Tensor, step: AdapterStep) -> tuple[torch.Tensor, int]:
        """Numbers of adapters along one axis of ``hidden``, and that axis."""
        ids = step.head_ids if self.is_head and step.head_ids is not None else step.ids
        assert ids is not None
        axes = range(1)
        if step.is_ragged:
            ids, axes = ids[0], range(hidden.ndim - 1)
        elif hidden.ndim == 2 and not statically_known_true(hidden.shape[0] == ids.shape[0]):
            ids = ids.expand(-1, step.step_len).reshape(-1)
        else:
            ids = ids[:, 0]
        for axis in axes:
            if statically_known_true(hidden.shape[axis] == ids.shape[0]):
                return ids, axis
        raise UnsupportedModel(
            f"A layer with adapters sees {list(hidden.shape)}, which are not the step's tokens in order: which adapter "
            "each belongs to is not known. Merge the adapter into the weights with merge(adapter_name), or let the "
            "adapters take turns with QEffAutoPeftModelForCausalLM."
        )


class SuppliedLora(nn.Module):
    """The place of matrices that each run of the graph brings.

    Args:
        path: the layer's.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, hidden: torch.Tensor, step: AdapterStep) -> torch.Tensor:
        """What to add for ``hidden [..., in]``."""
        down, up = step.matrices[self.path]
        return functional.linear(functional.linear(hidden, down), up)


_CHILD = "lora"


def _add_update(layer: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Forward hook of a layer with adapters; outside of a step with adapters it is the base model's."""
    step = _STEP.get(None)
    if step is None:
        return output
    update: torch.Tensor = layer.get_submodule(_CHILD)(args[0], step)
    return output + update


def with_lora(model: nn.Module, loras: Mapping[str, nn.Module]) -> Any:
    """A copy of ``model`` whose layers have adapters; it shares all parameters and buffers.

    Args:
        model: not changed.
        loras: :class:`SelectedLora` or :class:`SuppliedLora` by the layer's path.
    """
    adapted = shared_copy(model)
    for path, lora in loras.items():
        layer = adapted.get_submodule(path)
        layer.add_module(_CHILD, lora)
        layer.register_forward_hook(_add_update)
    return adapted


def shared_copy(model: nn.Module) -> Any:
    """A copy of a model's modules, with the parameters and buffers of the model itself."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
