"""Traces one layer of each kind: the others are passed by, and marks show where the traced ones begin and end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch.utils._pytree import tree_flatten, tree_unflatten

from QEfficient.exporter.layer_kinds import Repeats
from QEfficient.transformers.tasks.graph_spec import TaskGraph

_DOMAIN = "qeff"
EDGE = "LayerEdge"
"""Operator that marks where a value enters or leaves a traced layer."""


@torch.library.custom_op("qeff::layer_edge", mutates_args=())
def layer_edge(value: torch.Tensor, label: str) -> torch.Tensor:
    """``value``, where it enters or leaves a layer."""
    return value.clone()


@layer_edge.register_fake
def _(value: torch.Tensor, label: str) -> torch.Tensor:
    return torch.empty_like(value)


def _edge_operator() -> Op:
    kinds = [f"tensor({name})" for name in ("float", "float16", "bfloat16", "int64", "int32", "bool")]
    schema = OpSchema(
        EDGE,
        _DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter("value", "T")],
        outputs=[OpSchema.FormalParameter("return_val", "T")],
        type_constraints=[("T", kinds, "")],
        attributes=[OpSchema.Attribute("label", OpSchema.AttrType.STRING, "")],
    )
    return Op(Opset(_DOMAIN, 1), EDGE, schema)


_EDGE_OPERATOR = _edge_operator()

EDGE_TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.qeff.layer_edge.default: lambda value, label: _EDGE_OPERATOR(value, label=label)
}
"""Translation of the marks for torch.onnx."""


@contextmanager
def passing_by(graph: TaskGraph, repeats: Iterable[Repeats]) -> Iterator[None]:
    """Trace only the layers that stand for themselves, with marks on what enters and leaves them."""
    with ExitStack() as patches:
        for of_list in repeats:
            for index, first in enumerate(of_list.stands_for):
                layer = graph.module.get_submodule(of_list.runs[index].path)
                forward = _marked(of_list, index, layer.forward) if first == index else _passed_by(of_list, index)
                patches.enter_context(_forward_replaced(layer, forward))
        yield


@contextmanager
def _forward_replaced(layer: Any, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def _marked(repeats: Repeats, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        for leaf in repeats.chain:
            leaves[leaf] = layer_edge(leaves[leaf], repeats.label(index, "in", leaf))
        args, kwargs = tree_unflatten(leaves, spec)
        leaves, spec = tree_flatten(forward(*args, **kwargs))
        for leaf in repeats.leaving:
            leaves[leaf] = layer_edge(leaves[leaf], repeats.label(index, "out", leaf))
        return tree_unflatten(leaves, spec)

    return run


def _passed_by(repeats: Repeats, index: int) -> Callable[..., Any]:
    """Returns what entered, in the place of what would leave."""
    run = repeats.runs[index]
    entering = {leaving: leaf for leaf, leaving in repeats.chain.items()}
    inputs = {ref: leaf for leaf, ref in reversed([*enumerate(run.inputs)]) if ref is not None}

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves, _ = tree_flatten((args, kwargs))
        places = [entering.get(number, inputs.get(ref) if ref else None) for number, ref in enumerate(run.outputs)]
        # What does not enter the layer, such as its attention's weights, is used by nothing outside of it.
        results = [None if place is None else leaves[place] for place in places]
        return tree_unflatten(results, run.output_spec)

    return forward
