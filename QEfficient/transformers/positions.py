"""Positions for models that count them from the length of their cache, which says nothing where a cache is a state of
fixed size."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.retained_state import current_step


def count_from_step(model: nn.Module) -> None:
    """Let the positional embeddings of ``model``, a copy that is not the user's, take the step's positions."""
    for module in model.modules():
        parameters = inspect.signature(module.forward).parameters
        if {"past_key_values_length", "position_ids"} <= parameters.keys():
            module.register_forward_pre_hook(_give_positions, with_kwargs=True)
            module.register_forward_hook(_restore_rows)


def _give_positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    step, given = current_step(), kwargs.get("position_ids")
    if step is None or (given is not None and given.ndim > 1):
        return None  # the model has them from outside
    # One row: the embedding takes the positions of one sequence, which all rows would share.
    return args, {**kwargs, "position_ids": step.position_ids.clamp(min=0).reshape(-1)}


def _restore_rows(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    step = current_step()
    return output if step is None else output.reshape(*step.position_ids.shape, -1)
