"""Where a model's layers end in its graph, so that a difference can be traced to the first layer that has it."""

from __future__ import annotations

import ast

import onnx_ir as ir
from torch import nn

_SCOPES = "pkg.torch.onnx.name_scopes"
_MODEL_AT = "inner.model."


def layer_modules(model: nn.Module, num_layers: int) -> dict[str, nn.Module]:
    """The model's layers by path: the outermost list of ``num_layers`` modules; empty if there is none."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return {f"{path}.{index}": layer for index, layer in enumerate(module)}
    return {}


def name_layers(model: ir.Model, paths: list[str]) -> list[str]:
    """Name the value that leaves each layer ``layer.i``, and drop the exporter's notes from all nodes.

    Args:
        model: a traced graph; changed in place.
        paths: the layers' module paths in order.

    Returns:
        The names of those that were found, in order.
    """
    ends = _last_nodes(model, {f"{_MODEL_AT}{path}" for path in paths})
    names = []
    for index, path in enumerate(paths):
        node = ends.get(f"{_MODEL_AT}{path}")
        if node is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"layer.{index}"
            names.append(f"layer.{index}")
    for node in model.graph:
        node.metadata_props.clear()  # stack traces of this machine, several times the graph itself
    return names


def _last_nodes(model: ir.Model, scopes: set[str]) -> dict[str, ir.Node]:
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        noted = node.metadata_props.get(_SCOPES)
        for scope in ast.literal_eval(noted) if noted else ():
            if scope in scopes and node.outputs[0].uses():
                found[scope] = node
    return found
