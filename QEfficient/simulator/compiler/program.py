"""The stored program: a lowered graph, its weights and its description, as segments of a container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
from onnx_ir.passes import common as passes

from QEfficient.simulator.container import ALIGNMENT, Writer, write_container
from QEfficient.simulator.description import GRAPH, NETWORK, OPTIONS, WEIGHTS, ProgramOptions, network_descriptor
from QEfficient.simulator.passes.expand import shape_of
from QEfficient.simulator.passes.indices import make_indices_legal
from QEfficient.simulator.passes.precision import Policy, round_values
from QEfficient.simulator.passes.weights import BITS, fold_matmul_constants, quantise_matmul_constants

INLINE_BYTES = 1024
"""Constants up to this size stay in the graph, where type inference sees them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """The numerics of a graph."""

    policy: Policy
    mxfp6_variant: str | None = None
    """"aic" or "ocp"; None keeps matmul constants as they are."""


def lower(model: ir.Model, lowering: Lowering, exact_inputs: frozenset[str] = frozenset()) -> list[str]:
    """Apply the card's numerics to a flat graph, in place.

    Returns:
        A list that fills, while the weights are read, with the names of those that overflow fp16.
    """
    fold_matmul_constants(model)
    if lowering.mxfp6_variant is not None:
        quantise_matmul_constants(model, lowering.policy.nodes.fp16, lowering.mxfp6_variant)
    overflowed = round_values(model, lowering.policy, exact_inputs)
    make_indices_legal(model)
    passes.RemoveUnusedNodesPass()(model)
    _declare_outputs(model)
    return overflowed


def _declare_outputs(model: ir.Model) -> None:
    """The runtime infers inner shapes; declared symbolic shapes would only cause warnings."""
    for graph in [model.graph, *model.graph.subgraphs()]:
        for node in graph:
            for output in node.outputs:
                if not output.is_graph_output():
                    output.shape = None


def weight_bytes(model: ir.Model) -> int:
    """Size of the constants on the card."""
    bits = 0.0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        bits += value.meta.get(BITS, tensor.dtype.itemsize * 8) * tensor.size
    return round(bits / 8)


def write_program(path: Path, model: ir.Model, options: ProgramOptions, name: str, lists_shapes: bool) -> None:
    """Write the container. Weights are computed and written one at a time."""
    network = network_descriptor(options.bindings, f"simulated {name}", options.num_cores, lists_shapes)

    def write_weights(file: BinaryIO) -> None:
        start = file.tell()
        for value in model.graph.initializers.values():
            _write_weight(file, start, value)

    def write_graph(file: BinaryIO) -> None:
        file.write(ir.to_proto(model).SerializeToString(deterministic=True))

    segments: dict[str, bytes | Writer] = {
        NETWORK: network,
        WEIGHTS: write_weights,
        GRAPH: write_graph,
        OPTIONS: options.to_json().encode(),
    }
    write_container(path, segments)


def save_graph(model: ir.Model, folder: Path) -> bytes:
    """Write the weights as ``folder/sim_weights.bin``; the graph that reads them there."""
    with (folder / WEIGHTS).open("xb") as file:
        for value in model.graph.initializers.values():
            _write_weight(file, 0, value)
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _write_weight(file: BinaryIO, start: int, value: ir.Value) -> None:
    tensor = value.const_value
    assert tensor is not None
    loaded = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    if tensor.nbytes <= INLINE_BYTES or tensor.dtype == ir.DataType.STRING:
        value.const_value = loaded
        return
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell() - start
    file.write(loaded.tobytes())
    value.const_value = ir.ExternalTensor(
        WEIGHTS, offset, tensor.nbytes, tensor.dtype, shape=shape_of(tensor), name=str(value.name)
    )
