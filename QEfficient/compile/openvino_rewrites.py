"""Rewrites of an OpenVINO model before its weights are compressed.

``MatMul(x, Transpose(w)) -> MatMul(x, w, transpose_b=True)``: with nothing between a compressed weight and its
matmul, the plugin multiplies by the compressed bytes instead of unpacking them to float32 first.

``Reduce(x) -> Maximum(r, r), r = Reduce(x)`` for integers: the plugin of OpenVINO 2026.4 fuses an operator that follows
a reduction into it, and leaves that out for most rows where the numbers are integers. It fuses into none with two
readers.
"""

from __future__ import annotations

from typing import Any

import openvino as ov
import openvino.opset13 as ops

_REDUCTIONS = frozenset({"ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"})


def fold_weight_transposes(model: ov.Model) -> int:
    """Apply the rewrite everywhere in ``model``, in place.

    Returns:
        How many matmuls changed.
    """
    matmuls = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    return sum(_fold(node) for node in matmuls)


def separate_integer_reductions(model: ov.Model) -> int:
    """Apply the rewrite everywhere in ``model``, in place.

    Returns:
        How many reductions changed.
    """
    reductions = [node for node in model.get_ops() if node.get_type_name() in _REDUCTIONS]
    return sum(_separate(node) for node in reductions)


def _separate(reduction: Any) -> bool:
    output = reduction.output(0)
    if not output.get_element_type().is_integral_number():
        return False
    readers = list(output.get_target_inputs())
    same = ops.maximum(output, output)
    for reader in readers:
        reader.replace_source_output(same.output(0))
    return True


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
