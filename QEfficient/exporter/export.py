"""Writes a task's graphs as ONNX: trace, attach weights, simplify, save with the weights in separate files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import initializer_deduplication

from QEfficient.exporter.copied_layers import copy_layers
from QEfficient.exporter.external_data import ExternalData
from QEfficient.exporter.layer_kinds import find_repeats
from QEfficient.exporter.layers import layer_modules, name_layers
from QEfficient.exporter.trace import name_output_axes, trace
from QEfficient.exporter.traced_layers import passing_by
from QEfficient.exporter.transforms import apply_transforms
from QEfficient.exporter.weights import attach
from QEfficient.store.manifest import FileRecord
from QEfficient.transformers.checkpoint.source import WeightSource
from QEfficient.transformers.patches import rules_by_operator
from QEfficient.transformers.tasks.graph_spec import TaskGraph

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
WEIGHTS_FILE_BYTES = 10 << 30
"""Maximum size of a weight file: some file systems and tools fail on larger files."""


@dataclass(frozen=True)
class Export:
    """The files that :func:`export_onnx` wrote."""

    graphs: dict[str, dict[str, object]]
    """For each graph: its file, inputs and outputs with their shapes, the number of nodes, the values that leave the
    layers."""
    files: dict[str, FileRecord]
    """The files with the weights, hashed while they were written."""


def export_onnx(
    graphs: Mapping[str, TaskGraph],
    source: WeightSource,
    folder: Path,
    in_checkpoint_dtype: bool = True,
    transforms: Sequence[str] = (),
) -> Export:
    """Write graphs into ``folder``, with shared weight files: a weight that several graphs use is stored once.

    Args:
        graphs: the graphs of one model by name. A single one becomes ``model.onnx``, several ``NAME.onnx`` each.
        source: where the weights are; read in pieces.
        folder: an existing folder.
        in_checkpoint_dtype: see :func:`QEfficient.exporter.weights.attach`.
        transforms: names of rewrites, see :mod:`QEfficient.exporter.transforms`.

    Raises:
        SizeDependence: a model's code branches on the size of a dynamic axis.
        ExportError: PyTorch could not trace a model or write it as ONNX.
    """
    records = {}
    with ExternalData(folder, WEIGHTS_FILE, WEIGHTS_FILE_BYTES) as data:
        for name, graph in graphs.items():
            model, records[name] = _build(graph, source, in_checkpoint_dtype, transforms)
            records[name]["file"] = file = MODEL_FILE if len(graphs) == 1 else f"{name}.onnx"
            data.move_out(model)
            ir.save(model, folder / file)
    return Export(records, data.files)


def _build(
    graph: TaskGraph, source: WeightSource, in_checkpoint_dtype: bool, transforms: Sequence[str]
) -> tuple[ir.Model, dict[str, object]]:
    """A graph in ONNX whose weights are not read yet, and its description."""
    repeats = find_repeats(graph, source)
    with passing_by(graph, repeats):
        model = trace(graph)
    weights = attach(model, graph.lowered, source, in_checkpoint_dtype)
    with rules_by_operator(), _without_values(weights):
        onnxscript.optimizer.optimize_ir(model, should_fold=lambda node: _touches(node, weights), inline=False)
    name_output_axes(model, graph)
    copy_layers(model, graph, repeats, source)
    layers = name_layers(model, graph.module, layer_modules(graph.lowered.module, graph.num_layers).values())
    changed = apply_transforms(model, transforms)
    return model, {
        "inputs": _shapes(model.graph.inputs),
        "outputs": _shapes(model.graph.outputs),
        "num_nodes": len(model.graph),
        "transforms": changed,
        "lowering": graph.lowering,
        "layers": layers,
        "num_layers": graph.num_layers,
    }


@contextmanager
def _without_values(weights: Iterable[ir.Value]) -> Iterator[None]:
    """Keep the optimizer from what holds for the values of one layer's weights, and not for a layer's that is copied
    from it: two weights that are equal, a bias of zeros."""
    values = {weight: weight.const_value for weight in weights}
    for weight in values:
        weight.const_value = None
    level = initializer_deduplication.logger.level
    initializer_deduplication.logger.setLevel(logging.ERROR)  # warns of each
    try:
        yield
    finally:
        initializer_deduplication.logger.setLevel(level)
        for weight, value in values.items():
            weight.const_value = value


def _touches(node: ir.Node, weights: set[ir.Value]) -> bool | None:
    """False keeps a node: weights stay as in the checkpoint, whatever their size. None: the pass decides."""
    return False if any(value in weights for value in node.inputs) else None


def _shapes(values: object) -> dict[str, list[object]]:
    return {
        value.name: [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
        for value in values  # type: ignore[attr-defined]
    }
