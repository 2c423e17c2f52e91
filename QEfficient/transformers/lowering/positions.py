"""Positions and position biases for models that derive them from the length of their cache; a cache of fixed size
has no such length."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.lowering.step import current_step


def count_from_step(model: nn.Module) -> None:
    """Make the positional embeddings of ``model``, a private copy, use the step's positions."""
    for module in model.modules():
        parameters = inspect.signature(module.forward).parameters
        if {"past_key_values_length", "position_ids"} <= parameters.keys():
            module.register_forward_pre_hook(_give_positions, with_kwargs=True)
            module.register_forward_hook(_restore_rows)
        elif "past_key_values_length" in parameters and len(parameters) <= _FEW:
            module.forward = partial(_look_up, module.forward, getattr(module, "padding_idx", None))


_FEW = 3
"""Maximum number of parameters of a positional embedding: tokens, their embeddings, number of past tokens."""


def _give_positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    step = current_step()
    if step is None:
        return None
    # A module that takes the positions of one sequence gets the tokens of all rows, concatenated to one sequence.
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    step_positions, position_ids = step.position_ids.clamp(min=0), bound.arguments.get("position_ids")
    if position_ids is None:
        bound.arguments["position_ids"] = step_positions
    elif position_ids.ndim == 1:
        bound.arguments["position_ids"] = step_positions.reshape(-1)
    elif isinstance(position_ids.shape[1], int) and position_ids.shape[1] == 1:  # a column
        first, tokens = next(iter(bound.arguments.items()))
        bound.arguments |= {first: tokens.flatten(0, 1)[None], "position_ids": step_positions.reshape(-1, 1)}
    else:
        return None  # the caller set them
    return bound.args, bound.kwargs


def _restore_rows(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    step = current_step()
    return output if step is None else output.reshape(*step.position_ids.shape, -1)


def _look_up(forward: Callable[..., torch.Tensor], padding_idx: int | None, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``[B, S, D]`` of an embedding that numbers tokens itself: embed a whole context, then select the step's rows."""
    step = current_step()
    if step is None:
        return forward(*args, **kwargs)
    arguments = inspect.signature(forward).bind(*args, **kwargs).arguments
    tokens, length = next(iter(arguments.values())), arguments["past_key_values_length"] + step.position_ids.shape[1]
    if not isinstance(tokens, torch.Tensor):  # their shape
        return _rows_of(forward((1, length)), step.position_ids)
    padding = -1 if padding_idx is None else padding_idx
    embeddings = _rows_of(forward(tokens.new_full((1, length), padding + 1)), step.position_ids)
    return torch.where((tokens == padding)[..., None], forward(tokens.new_full((1, 1), padding)), embeddings)


def _rows_of(table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return table.reshape(-1, table.shape[-1])[positions.clamp(min=0)]


def biases_from_step(model: nn.Module) -> None:
    """Make the relative position biases of ``model``, a private copy, use the step's positions.

    T5 and similar models call a method for the bias of ``query_length`` tokens after ``past_seen_tokens`` others.
    """
    for module in model.modules():
        method = getattr(module, "compute_bias", None)
        if method is not None and "past_seen_tokens" in inspect.signature(method).parameters:
            setattr(module, "compute_bias", partial(_step_bias, method))  # noqa: B010


def _step_bias(
    method: Callable[..., torch.Tensor],
    query_length: Any,
    key_length: Any,
    device: Any = None,
    past_seen_tokens: Any = 0,
) -> torch.Tensor:
    """``[B, H, S, L]`` for the step's positions; outside a step the method's result."""
    step = current_step()
    if step is None:
        return method(query_length, key_length, device=device, past_seen_tokens=past_seen_tokens)
    # The tokens of all rows as one sequence with arbitrary positions.
    positions = step.position_ids.clamp(min=0).reshape(-1)
    apart = (positions - torch.arange(positions.shape[0]))[:, None]
    bias = method(positions.shape[0], key_length, device=device, past_seen_tokens=apart)
    return bias.reshape(bias.shape[1], *step.position_ids.shape, -1).transpose(0, 1)
