"""From the exported graph to one flat float32 graph: functions inlined, constants lifted, types known."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from QEfficient.simulator.passes.packed import MATMUL_NBITS, expand_matmul_nbits
from QEfficient.simulator.rejection import Rejected

RMS_NORM = ("com.qti.aisw.onnx", "CustomRMSNorm")
"""One operation of the card, with float32 inside. Its function body is only for other runtimes."""

_NORM_PART = "/rms_norm_"
EXACT = "exact"
"""Marks a node inside such an operation: its output is not rounded."""
ROUNDS_TO = "rounds_to"
"""Marks what was a Cast to a narrower float type."""

_ONNX = ("", "ai.onnx")
_NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_PROMOTED = _NARROW | {ir.DataType.DOUBLE}


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph and those inside its If, Loop and Scan."""
    return [model.graph, *model.graph.subgraphs()]


def opset(model: ir.Model) -> int:
    """The version of the ONNX operator set."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def operation(name: str) -> str:
    """The exported node that a node belongs to, by the names of their first outputs: an RMSNorm for its parts."""
    return name.partition(_NORM_PART)[0]


def expand(model: ir.Model) -> None:
    """Flatten ``model`` in place; floats of all widths become float32.

    Raises:
        Rejected: an operator that is neither in ONNX nor a function of the model, or a value without a type.
    """
    _align_opsets(model)
    model = passes.InlinePass(lambda function: (function.domain, function.name) != RMS_NORM)(model).model
    for graph in all_graphs(model):
        for node in list(graph):
            if (node.domain, node.op_type) == RMS_NORM:
                _expand_rms_norm(graph, node, opset(model))
            elif (node.domain, node.op_type) == MATMUL_NBITS:
                expand_matmul_nbits(graph, node)
    model.functions.clear()
    _check_operators(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    promote(model)
    infer_types(model)


def _align_opsets(model: ir.Model) -> None:
    """Align the opsets of functions; a function may use another opset if its operators are the same in both."""
    version = opset(model)
    for function in model.functions.values():
        function_version = function.opset_imports.get("", version)
        changed = [node.op_type for node in function if _since(node, function_version) != _since(node, version)]
        if changed and (function.domain, function.name) != RMS_NORM:
            raise Rejected(
                f"Function {function.name} is written for opset {function_version}, the model for {version}, and "
                f"{', '.join(sorted(set(changed)))} differ between them."
            )
        function.opset_imports[""] = version


def _since(node: ir.Node, version: int) -> int | None:
    if node.domain not in _ONNX or not onnx.defs.has(node.op_type, version):
        return None
    return onnx.defs.get_schema(node.op_type, version).since_version


def _expand_rms_norm(graph: ir.Graph, node: ir.Node, version: int) -> None:
    """``x · rsqrt(mean(x²) + ε) · w`` along the last axis; only the last product is rounded."""
    x, weight = node.inputs
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    square = ir.node("Mul", [x, x])
    mean = _reduce_mean(square.outputs[0], version)
    constant = ir.node("Constant", [], {"value": ir.tensor(epsilon, dtype=ir.DataType.FLOAT)})
    shifted = ir.node("Add", [mean[-1].outputs[0], constant.outputs[0]])
    root = ir.node("Sqrt", [shifted.outputs[0]])
    scaled = ir.node("Div", [x, root.outputs[0]])
    result = ir.node("Mul", [scaled.outputs[0], weight], name=node.name)
    added = [square, *mean, constant, shifted, root, scaled, result]
    for inner in added[:-1]:
        inner.meta[EXACT] = True
    name = node.outputs[0].name
    for index, inner in enumerate(added[:-1]):
        inner.outputs[0].name = f"{name}{_NORM_PART}{index}"
    ir.convenience.replace_nodes_and_values(graph, node, [node], added, node.outputs, result.outputs)
    result.outputs[0].name = name


def _reduce_mean(value: ir.Value, version: int) -> list[ir.Node]:
    if version < 18:
        return [ir.node("ReduceMean", [value], {"axes": [-1], "keepdims": 1})]
    axes = ir.node("Constant", [], {"value": ir.tensor([-1], dtype=ir.DataType.INT64)})
    return [axes, ir.node("ReduceMean", [value, axes.outputs[0]], {"keepdims": 1})]


def _check_operators(model: ir.Model) -> None:
    version = opset(model)
    for graph in all_graphs(model):
        for node in graph:
            if node.domain not in _ONNX or not onnx.defs.has(node.op_type, version):
                raise Rejected(
                    "Unable to AddNodesToGraphFromModel: "
                    f"node {node.name!r} is {node.domain or 'ai.onnx'}::{node.op_type}, which is not an operator of "
                    f"opset {version} and no function of the model."
                )


def promote(model: ir.Model) -> None:
    """Every float16, bfloat16 and float64 becomes float32; a Cast to a narrow type is marked with it."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in _PROMOTED:
            value.const_value = _as_float(tensor)
    for graph in all_graphs(model):
        for value in [*graph.inputs, *graph.initializers.values()]:
            _retype(value)
        for node in graph:
            _promote_node(node)


def shape_of(tensor: ir.TensorProtocol) -> ir.Shape:
    """The shape of a constant."""
    return ir.Shape(tensor.shape)  # type: ignore[arg-type]  # a protocol there, which ir.Shape accepts


def _as_float(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def load() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype("float32"))

    return ir.LazyTensor(load, dtype=ir.DataType.FLOAT, shape=shape_of(tensor), name=tensor.name)


def _promote_node(node: ir.Node) -> None:
    for output in node.outputs:
        _retype(output)
    for name in ("to", "dtype"):
        attribute = node.attributes.get(name)
        wanted = ir.DataType(attribute.as_int()) if attribute is not None else None
        if wanted in _PROMOTED:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            if wanted in _NARROW:
                node.meta[ROUNDS_TO] = wanted
    value = node.attributes.get("value")
    if value is not None and value.type == ir.AttributeType.TENSOR and value.as_tensor().dtype in _PROMOTED:
        tensor = value.as_tensor().numpy().astype("float32")
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor))


def _retype(value: ir.Value) -> None:
    if value.dtype in _PROMOTED:
        value.dtype = ir.DataType.FLOAT


def infer_types(model: ir.Model) -> None:
    """Infer the types of all values, and their shapes where possible.

    Raises:
        Rejected: a value whose type cannot be inferred.
    """
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for graph in all_graphs(model):
        for node in graph:
            for output in node.outputs:
                if output.name and output.dtype is None:
                    raise Rejected(f"Unable to AddNodesToGraphFromModel: {node.op_type} {output.name} has no type.")
