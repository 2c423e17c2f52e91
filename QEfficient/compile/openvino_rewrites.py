"""Rewrites of an OpenVINO model before its weights are compressed.

``MatMul(x, Transpose(w)) -> MatMul(x, w, transpose_b=True)``: with nothing between a compressed weight and its
matmul, the plugin multiplies by the compressed bytes instead of unpacking them to float32 first.
"""

from __future__ import annotations

from typing import Any

import openvino as ov
import openvino.opset13 as ops


def fold_weight_transposes(model: ov.Model) -> int:
    """Apply the rewrite everywhere in ``model``, in place.

    Returns:
        How many matmuls changed.
    """
    matmuls = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    return sum(_fold(node) for node in matmuls)


def _fold(matmul: Any) -> bool:
    transpose = matmul.input(1).get_source_output().get_node()
    if transpose.get_type_name() != "Transpose" or not _swaps_last_two(transpose):
        return False
    attributes = matmul.get_attributes()
    folded = ops.matmul(
        matmul.input(0).get_source_output(),
        transpose.input(0).get_source_output(),
        attributes["transpose_a"],
        not attributes["transpose_b"],
    )
    folded.set_friendly_name(matmul.get_friendly_name())
    names = matmul.output(0).get_names()
    matmul.output(0).replace(folded.output(0))
    folded.output(0).set_names(names)
    return True


def _swaps_last_two(transpose: Any) -> bool:
    order = transpose.input(1).get_source_output().get_node()
    if order.get_type_name() != "Constant":
        return False
    axes = [int(axis) for axis in order.data]
    rank = len(axes)
    return rank >= 2 and axes == [*range(rank - 2), rank - 1, rank - 2]
