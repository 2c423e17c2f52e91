"""Writes a task's graph as ONNX: traced, given its weights, simplified, saved with the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import onnxscript.optimizer
from torch import nn

from QEfficient.exporter.layers import layer_modules, name_layers
from QEfficient.exporter.trace import OPSET, trace
from QEfficient.exporter.transforms import apply_transforms
from QEfficient.exporter.weights import WeightSource, attach
from QEfficient.transformers.patches import rules_by_operator
from QEfficient.transformers.tasks.graph_spec import TaskGraph

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
WEIGHTS_FILE_BYTES = 10 << 30
"""Weights go over several files of at most this size: some file systems and tools stop at larger ones."""


def toolchain() -> dict[str, str]:
    """Versions that decide what comes out."""
    packages = ("torch", "transformers", "onnxscript", "onnx-ir")
    return {name: version(name) for name in packages} | {"opset": str(OPSET)}


def export_onnx(
    graph: TaskGraph,
    model: nn.Module,
    folder: Path,
    in_checkpoint_dtype: bool = True,
    transforms: Sequence[str] = (),
) -> Mapping[str, object]:
    """Write ``model.onnx`` and its weights into ``folder``.

    Args:
        graph: the task's graph of ``model``.
        model: where the weights are; read one at a time.
        folder: an existing folder.
        in_checkpoint_dtype: see :func:`QEfficient.exporter.weights.attach`.
        transforms: names of rewrites, see :mod:`QEfficient.exporter.transforms`.

    Returns:
        The manifest's body: inputs and outputs with their shapes, the number of nodes, the values that
        leave the layers.
    """
    onnx_model = trace(graph)
    weights = attach(onnx_model, WeightSource(model), in_checkpoint_dtype)
    with rules_by_operator():
        onnxscript.optimizer.optimize_ir(onnx_model, should_fold=lambda node: _touches(node, weights), inline=False)
    layers = name_layers(onnx_model, list(layer_modules(model, graph.num_layers)))
    changed = apply_transforms(onnx_model, transforms)
    ir.save(onnx_model, folder / MODEL_FILE, external_data=WEIGHTS_FILE, max_shard_size_bytes=WEIGHTS_FILE_BYTES)
    return {
        "inputs": _shapes(onnx_model.graph.inputs),
        "outputs": _shapes(onnx_model.graph.outputs),
        "num_nodes": len(onnx_model.graph),
        "transforms": changed,
        "lowering": graph.lowering,
        "layers": layers,
        "num_layers": graph.num_layers,
    }


def _touches(node: ir.Node, weights: set[ir.Value]) -> bool | None:
    """False keeps a node: a weight stays as it is in the checkpoint, whatever its size. None leaves the choice."""
    return False if any(value in weights for value in node.inputs) else None


def _shapes(values: object) -> dict[str, list[object]]:
    return {
        value.name: [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
        for value in values  # type: ignore[attr-defined]
    }
