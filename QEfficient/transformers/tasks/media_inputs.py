"""The inputs of a language model's graph that carry images, videos and audio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from QEfficient.contract import DEEPSTACK, FEATURES, FIRST_ROW, INDEX
from QEfficient.transformers.lowering.infer_cache_spec import media_arguments
from QEfficient.transformers.lowering.media import MediaTokens, StepMedia, placing
from QEfficient.transformers.tasks.graph_spec import Axes, GraphInput

_SAMPLE_ROWS = 9


def media_inputs(tokens: MediaTokens, step: GraphInput, *, with_sets: bool, counts_rows: bool) -> list[GraphInput]:
    """Features, and what else comes with media.

    Args:
        tokens: what stands for them in a prompt.
        step: the graph's input of tokens.
        with_sets: whether each row of the batch has a set of features, ``[vision_batch_size, vision_size, D]``; else
            there is one set, ``[1, vision_size, D]``.
        counts_rows: whether placeholders stand for the rows from ``image_idx [1, 1]`` on, as in upstream's graphs;
            else ``vision_index [B, S]`` says the row of each token, -1 for none.
    """
    num_sets = step.sample.shape[0]
    axes: Axes = {1: "vision_size"} | ({0: "vision_batch_size"} if with_sets else {})
    inputs = []
    if tokens.has_pooled:
        inputs.append(GraphInput(FEATURES, torch.zeros(num_sets, _SAMPLE_ROWS, tokens.width), axes))
    if tokens.num_deepstack:
        sample = torch.zeros(tokens.num_deepstack, num_sets, _SAMPLE_ROWS, tokens.width)
        inputs.append(GraphInput(DEEPSTACK, sample, {axis + 1: name for axis, name in axes.items()}))
    if counts_rows:
        inputs.append(GraphInput(FIRST_ROW, torch.zeros(1, 1, dtype=torch.int64)))
    else:
        inputs.append(GraphInput(INDEX, torch.zeros_like(step.sample), step.axes))
    return [*inputs, *(GraphInput(name, torch.zeros_like(step.sample), step.axes) for name in tokens.token_types)]


def with_coordinates(positions: GraphInput, num_coordinates: int) -> GraphInput:
    """``position_ids`` as ``[1 + P, B, S]``, where a token has P coordinates beside its position."""
    if not num_coordinates:
        return positions
    sample = positions.sample.repeat(1 + num_coordinates, 1, 1)
    return GraphInput(positions.name, sample, {axis + 1: name for axis, name in positions.axes.items()})


def split_positions(position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions ``[B, S]`` in the sequence, and what the model's rotary embeddings take."""
    return (position_ids[0], position_ids[1:]) if position_ids.ndim == 3 else (position_ids, position_ids)


def step_media(
    tokens: MediaTokens | None, input_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
) -> StepMedia | None:
    """The media of a step, from the inputs of :func:`media_inputs`; None for a model without."""
    if tokens is None:
        return None
    types = {name: inputs[name] for name in tokens.token_types}
    return StepMedia(
        tokens,
        input_ids,
        inputs.get(FEATURES),
        first_row=inputs.get(FIRST_ROW),
        index=inputs.get(INDEX),
        deepstack=inputs.get(DEEPSTACK),
        token_types=types,
    )


@contextmanager
def placed(model: nn.Module, media: StepMedia | None) -> Iterator[dict[str, Any]]:
    """Let ``model`` put the features of ``media`` at their tokens; yields arguments of its forward."""
    if media is None:
        yield {}
        return
    absent = dict.fromkeys(media_arguments(model))  # their features are there instead
    with placing(model, media):
        yield {**absent, **media.arguments(), **media.token_types}
