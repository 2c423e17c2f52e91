"""``com.microsoft::MatMulNBits`` as a matmul with a constant, whose elements are worked out when they are needed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

BITS = "bits"
"""Metadata key of an initializer: bits per value on the card."""
MATMUL_NBITS = ("com.microsoft", "MatMulNBits")


def expand_matmul_nbits(graph: ir.Graph, node: ir.Node) -> None:
    """Replace ``node``; the constant keeps the bits per value that it has on the card."""
    inputs, *packed = node.inputs
    sizes = {name: node.attributes[name].as_int() for name in ("K", "N", "bits", "block_size")}
    shape = ir.Shape((sizes["K"], sizes["N"]))
    tensors = [value.const_value for value in packed if value is not None]

    def load() -> ir.TensorProtocol:
        return ir.tensor(_expanded([tensor.numpy() for tensor in tensors if tensor is not None], sizes))

    name = f"{packed[0].name if packed[0] is not None else node.name}.expanded"
    if name not in graph.initializers:
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        value.const_value = ir.LazyTensor(load, dtype=ir.DataType.FLOAT, shape=shape, name=name)
        value.meta[BITS] = sizes["bits"]
        graph.register_initializer(value)
    product = ir.node("MatMul", [inputs, graph.initializers[name]], name=node.name)
    output_name = node.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product], node.outputs, product.outputs)
    product.outputs[0].name = output_name


def _expanded(tensors: list[NDArray], sizes: dict[str, int]) -> NDArray:
    """[K, N] in float32."""
    octets, scales, *zero_points = tensors
    num_blocks, bits = sizes["K"] // sizes["block_size"], sizes["bits"]
    values = _integers(octets, bits).reshape(sizes["N"], num_blocks, sizes["block_size"]).astype(np.float32)
    zeros = _integers(zero_points[0], bits).reshape(sizes["N"], num_blocks, 1) if zero_points else 2 ** (bits - 1)
    return np.ascontiguousarray(
        ((values - zeros) * scales.reshape(sizes["N"], num_blocks, 1)).reshape(sizes["N"], -1).T
    )


def _integers(octets: NDArray, bits: int) -> NDArray:
    octets = octets.reshape(-1)
    return octets if bits == 8 else np.stack([octets & 15, octets >> 4], -1).reshape(-1)
