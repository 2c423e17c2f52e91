"""Runs the LM head on selected hidden states only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """The LM head of ``model``, or of its decoder where it does not say that this has it; None: there is none."""
    decoder = getattr(model, "get_decoder", lambda: model)()
    heads = (getattr(part, "get_output_embeddings", lambda: None)() for part in (model, decoder))
    return next((head for head in heads if head is not None), None)


@contextmanager
def select_before_head(model: nn.Module, select: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Run the LM head only on the hidden states that ``select`` returns."""
    head = output_embeddings(model)
    if head is None:
        raise UnsupportedModel(f"{type(model).__name__} has no output embeddings, so it cannot predict tokens.")
    hook = head.register_forward_pre_hook(lambda module, args: (select(args[0]), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


def at_places(places: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Picks the hidden states ``[B, ..., K, D]`` at ``places [B, K]`` of ``[B, ..., S, D]``."""

    def pick(hidden: torch.Tensor) -> torch.Tensor:
        index = places.reshape(places.shape[0], *[1] * (hidden.ndim - 3), places.shape[1], 1)
        return hidden.gather(hidden.ndim - 2, index.expand(*hidden.shape[:-2], -1, hidden.shape[-1]))

    return pick
