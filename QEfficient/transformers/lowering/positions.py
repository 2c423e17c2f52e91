"""Positions, and biases by position, for models that count from the length of their cache, which says nothing where a
cache is a state of fixed size."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.lowering.step import current_step


def count_from_step(model: nn.Module) -> None:
    """Let the positional embeddings of ``model``, a copy that is not the user's, take the step's positions."""
    for module in model.modules():
        parameters = inspect.signature(module.forward).parameters
        if {"past_key_values_length", "position_ids"} <= parameters.keys():
            module.register_forward_pre_hook(_give_positions, with_kwargs=True)
            module.register_forward_hook(_restore_rows)
        elif "past_key_values_length" in parameters and len(parameters) <= _FEW:
            module.forward = partial(_look_up, module.forward, getattr(module, "padding_idx", None))


_FEW = 3
"""Parameters that a positional embedding has at most: tokens, their embeddings, tokens before them."""


def _give_positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    step = current_step()
    if step is None:
        return None
    # Where one text's positions are given, all rows' tokens go in one after the other, as those of one text.
    given = inspect.signature(module.forward).bind(*args, **kwargs)
    positions, held = step.position_ids.clamp(min=0), given.arguments.get("position_ids")
    if held is None:
        given.arguments["position_ids"] = positions
    elif held.ndim == 1:
        given.arguments["position_ids"] = positions.reshape(-1)
    elif isinstance(held.shape[1], int) and held.shape[1] == 1:  # a column
        first, tokens = next(iter(given.arguments.items()))
        given.arguments |= {first: tokens.flatten(0, 1)[None], "position_ids": positions.reshape(-1, 1)}
    else:
        return None  # the model has them from outside
    return given.args, given.kwargs


def _restore_rows(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    step = current_step()
    return output if step is None else output.reshape(*step.position_ids.shape, -1)


def _look_up(forward: Callable[..., torch.Tensor], padding_idx: int | None, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``[B, S, D]`` of an embedding that numbers tokens itself: those of a whole context, and of these the step's."""
    step = current_step()
    if step is None:
        return forward(*args, **kwargs)
    given = inspect.signature(forward).bind(*args, **kwargs).arguments
    tokens, length = next(iter(given.values())), given["past_key_values_length"] + step.position_ids.shape[1]
    if not isinstance(tokens, torch.Tensor):  # their shape
        return _rows_of(forward((1, length)), step.position_ids)
    padding = -1 if padding_idx is None else padding_idx
    found = _rows_of(forward(tokens.new_full((1, length), padding + 1)), step.position_ids)
    return torch.where((tokens == padding)[..., None], forward(tokens.new_full((1, 1), padding)), found)


def _rows_of(table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return table.reshape(-1, table.shape[-1])[positions.clamp(min=0)]


def biases_from_step(model: nn.Module) -> None:
    """Let relative position biases of ``model``, a copy that is not the user's, be those of the step's positions.

    T5 and its like ask a method for the bias of ``query_length`` tokens that come after ``past_seen_tokens`` others.
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
    """``[B, H, S, L]`` for the step's positions; what the method gives where no step runs."""
    step = current_step()
    if step is None:
        return method(query_length, key_length, device=device, past_seen_tokens=past_seen_tokens)
    # All rows' tokens one after the other, as one sequence whose tokens lie anywhere.
    positions = step.position_ids.clamp(min=0).reshape(-1)
    apart = (positions - torch.arange(positions.shape[0]))[:, None]
    bias = method(positions.shape[0], key_length, device=device, past_seen_tokens=apart)
    return bias.reshape(bias.shape[1], *step.position_ids.shape, -1).transpose(0, 1)
