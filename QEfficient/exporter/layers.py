"""Names the outputs of a model's layers in its graph, to trace a difference to the first layer that has it."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx_ir as ir
from torch import nn

LAYER = "qeff.layer"
"""Metadata key of a node: the number of the layer in which it was traced."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of a traced node: the paths of the modules around it, as a list."""


def layer_modules(model: nn.Module, num_layers: int) -> dict[str, nn.Module]:
    """The model's layers by path: the outermost list of ``num_layers`` modules; empty if there is none."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return {f"{path}.{index}": layer for index, layer in enumerate(module)}
    return {}


def name_layers(model: ir.Model, traced: nn.Module, layers: Iterable[nn.Module]) -> list[str]:
    """Name the value that leaves each layer ``layer.i``, and replace the exporter's notes by the layer's number.

    Args:
        model: a traced graph; changed in place.
        traced: the module that it was traced from.
        layers: the layers in order, somewhere in that module.

    Returns:
        The new names, in order; layers without an output value in the graph have none.
    """
    paths = {module: path for path, module in traced.named_modules()}
    numbers = {paths[layer]: index for index, layer in enumerate(layers) if layer in paths}
    ends: dict[int, ir.Node] = {}
    for node in model.graph:
        number = _layer_of(node, numbers)
        node.metadata_props.clear()  # stack traces of this machine, several times the graph itself
        if number is not None:
            node.metadata_props[LAYER] = str(number)
            if node.outputs[0].uses():
                ends[number] = node
    named = [number for number, node in sorted(ends.items()) if not node.outputs[0].is_graph_output()]
    for number in named:
        ends[number].outputs[0].name = f"layer.{number}"
    return [f"layer.{number}" for number in named]


def _layer_of(node: ir.Node, numbers: dict[str, int]) -> int | None:
    noted = node.metadata_props.get(SCOPES)
    scopes = ast.literal_eval(noted) if noted else ()
    return next((numbers[scope] for scope in scopes if scope in numbers), None)
