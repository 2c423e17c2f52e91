"""Whether a task's outputs depend on weights that a checkpoint does not have.

Most encoders were saved by a head that has no pooler, which hidden states do not need; a classifier cannot do without
its head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from QEfficient.errors import CorruptCheckpoint
from QEfficient.transformers.checkpoint.missing import MissingParameter
from QEfficient.transformers.tasks.graph_spec import TaskGraph


def check_missing_weights(model: nn.Module, graphs: Iterable[TaskGraph]) -> None:
    """Run ``graphs`` without weights, and follow the missing ones to the outputs.

    Raises:
        CorruptCheckpoint: an output depends on a missing weight of ``model``.
    """
    names = {id(p): name for name, p in model.named_parameters() if isinstance(p, MissingParameter)}
    needed = sorted({names[id(parameter)] for graph in graphs for parameter in _needed(graph)})
    if needed:
        more = f" (and {len(needed) - 3} more)" if len(needed) > 3 else ""
        listed = "; ".join(f"'{name}' is missing" for name in needed[:3])
        raise CorruptCheckpoint(
            f"The weights in {model.config.name_or_path} do not fit its config.json: {listed}{more}. The checkpoint is "
            "incomplete, its config belongs to another model, or it was saved without the head that is asked for."
        )


def _needed(graph: TaskGraph) -> Iterator[nn.Parameter]:
    """The missing parameters that an output of ``graph`` depends on."""
    originals = {id(fake): p for fake, p in graph.lowered.parameters if isinstance(p, MissingParameter)}
    for fake, _ in graph.lowered.parameters:
        fake.requires_grad_(id(fake) in originals)
    with torch.enable_grad(), graph.lowered.fake_mode:
        outputs = tree_leaves(graph.module(*(graph_input.sample for graph_input in graph.inputs)))
    leaves = _leaves([output.grad_fn for output in outputs if isinstance(output, torch.Tensor)])
    return (originals[id(leaf)] for leaf in leaves if id(leaf) in originals)


def _leaves(pending: list[Any]) -> Iterator[torch.Tensor]:
    """The tensors at the ends of autograd's graph. Nothing is differentiated: our operators have no derivative."""
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [following for following, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
