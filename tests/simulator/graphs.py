"""Small graphs in ONNX's text form, as an exporter would write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VOCAB, HIDDEN, CTX = 16, 32, 8
INT32_MAX = 2**31 - 1

CTX_SCATTER = """
<domain: "com.qualcomm.cloud", opset_import: ["" : 18]>
CtxScatter (data, position_ids, updates) => (result)
{
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    batch_axes = Constant <value = int64[3] {1, 2, 3}> ()
    batch_size = Shape <start = 0, end = 1> (updates)
    batch_scalar = Squeeze (batch_size)
    batch_range = Range (zero, batch_scalar, one)
    batch = Unsqueeze (batch_range, batch_axes)
    head_axes = Constant <value = int64[1] {1}> ()
    last_axis = Constant <value = int64[1] {-1}> ()
    pos4 = Unsqueeze (position_ids, head_axes)
    pos = Unsqueeze (pos4, last_axis)
    shape3 = Shape <start = 0, end = 3> (updates)
    one1 = Constant <value = int64[1] {1}> ()
    shape = Concat <axis = 0> (shape3, one1)
    batch_full = Expand (batch, shape)
    pos_full = Expand (pos, shape)
    head_full = Sub (pos_full, pos_full)
    indices = Concat <axis = -1> (batch_full, head_full, pos_full)
    result = ScatterND (data, indices, updates)
}
"""

# A row's padding has position -1; it is written to INT32_MAX, which the card drops.
DECODER = """
<ir_version: 8, opset_import: ["" : 18, "com.qualcomm.cloud" : 1, "com.qti.aisw.onnx" : 1]>
decoder (int64[batch_size, seq_len] input_ids, int64[batch_size, seq_len] position_ids{BATCH_INPUT},
         float[{STATE}, 1, ctx_len, 32] past_key__0, float[{STATE}, 1, ctx_len, 32] past_value__0)
     => (float[batch_size, 1, 16] logits, float[{STATE}, 1, ctx_len, 32] past_key__0_RetainedState,
         float[{STATE}, 1, ctx_len, 32] past_value__0_RetainedState)
{
    embedded = Gather (embed, input_ids)
    hidden = com.qti.aisw.onnx.CustomRMSNorm <epsilon: float = 0.00001> (embedded, norm)
    q3 = MatMul (hidden, w_q)
    k3 = MatMul (hidden, w_k)
    wv = Transpose <perm = [1, 0]> (w_v_t)
    v3 = MatMul (hidden, wv)
    head_axis = Constant <value = int64[1] {1}> ()
    q = Unsqueeze (q3, head_axis)
    k = Unsqueeze (k3, head_axis)
    v = Unsqueeze (v3, head_axis)
    zero = Constant <value = int64 {0}> ()
    is_padding = Less (position_ids, zero)
    nowhere = Constant <value = int64 {2147483647}> ()
    slots_written = Where (is_padding, nowhere, position_ids)
{BODY}
    kt = Transpose <perm = [0, 1, 3, 2]> (keys)
    scores = MatMul (q, kt)
    one = Constant <value = int64 {1}> ()
    ctx1 = Shape <start = 2, end = 3> (past_key__0)
    ctx = Squeeze (ctx1)
    slots = Range (zero, ctx, one)
    row_axes = Constant <value = int64[2] {1, 3}> ()
    rows = Unsqueeze (position_ids, row_axes)
    seen = LessOrEqual (slots, rows)
    masked_out = Constant <value = float {-10000.0}> ()
    masked = Where (seen, scores, masked_out)
    probabilities = Softmax <axis = -1> (masked)
    mixed4 = MatMul (probabilities, values)
    mixed = Squeeze (mixed4, head_axis)
    all_logits = MatMul (mixed, w_out)
    last = ArgMax <axis = 1, keepdims = 1> (position_ids)
    last_axis = Constant <value = int64[1] {-1}> ()
    last3 = Unsqueeze (last, last_axis)
    logits = GatherND <batch_dims = 1> (all_logits, last3)
}
"""
_PLAIN = """
    past_key__0_RetainedState = com.qualcomm.cloud.CtxScatter (past_key__0, slots_written, k)
    past_value__0_RetainedState = com.qualcomm.cloud.CtxScatter (past_value__0, slots_written, v)
    keys = Identity (past_key__0_RetainedState)
    values = Identity (past_value__0_RetainedState)
"""
# Continuous batching: batch_index names the state row of each batch row.
_BATCHED = """
    pos_axes = Constant <value = int64[2] {1, 3}> ()
    index_axes = Constant <value = int64[2] {2, 3}> ()
    pos = Unsqueeze (slots_written, pos_axes)
    rows_of = Unsqueeze (batch_index, index_axes)
    zeros = Sub (pos, pos)
    rows_full = Add (rows_of, zeros)
    indices = Concat <axis = -1> (rows_full, zeros, pos)
    past_key__0_RetainedState = ScatterND (past_key__0, indices, k)
    past_value__0_RetainedState = ScatterND (past_value__0, indices, v)
    row_ids = Squeeze (batch_index, head_axis)
    keys = Gather (past_key__0_RetainedState, row_ids)
    values = Gather (past_value__0_RetainedState, row_ids)
"""
RMS_NORM = """
<domain: "com.qti.aisw.onnx", opset_import: ["" : 18]>
CustomRMSNorm <epsilon> (x, weight) => (y)
{
    square = Mul (x, x)
    axes = Constant <value = int64[1] {-1}> ()
    mean = ReduceMean (square, axes)
    eps = Constant <value_float: float = @epsilon> ()
    shifted = Add (mean, eps)
    root = Sqrt (shifted)
    inverse = Reciprocal (root)
    scaled = Mul (x, inverse)
    y = Mul (scaled, weight)
}
"""


def weights() -> dict[str, NDArray]:
    rng = np.random.default_rng(7)
    shapes = {"embed": (VOCAB, HIDDEN), "w_q": (32, 32), "w_k": (32, 32), "w_v_t": (32, 32), "w_out": (32, VOCAB)}
    made = {name: rng.normal(0, 0.15, shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"norm": np.ones(HIDDEN, np.float32)}


def decoder(folder: Path, *, batched: bool = False, external: bool = True, opset: int = 18) -> Path:
    """A decoder of one layer and one head, with functions as upstream's exporter writes them."""
    text = DECODER.replace("{STATE}", "full_batch_size" if batched else "batch_size")
    text = text.replace("{BATCH_INPUT}", ", int64[batch_size, 1] batch_index" if batched else "")
    text = text.replace("{BODY}", _BATCHED if batched else _PLAIN).replace('"" : 18', f'"" : {opset}')
    model = onnx.parser.parse_model(text)
    _dotted(model)
    for function in (CTX_SCATTER, RMS_NORM):
        parsed = onnx.parser.parse_function(function)
        parsed.opset_import[0].version = opset if parsed.name == "CtxScatter" else 18
        model.functions.append(parsed)
    return save(model, folder / "decoder.onnx", weights(), external=external)


def _dotted(model: onnx.ModelProto) -> None:
    """``past_key__0`` becomes ``past_key.0``: the text form has no dots in names."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = value.name.replace("__", ".")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]


def save(model: onnx.ModelProto, path: Path, initializers: dict[str, NDArray], *, external: bool = False) -> Path:
    """Write the model with these initializers."""
    for name, values in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0} if external else {}
    onnx.save(model, path, **options)
    return path


def parse(
    path: Path, body: str, initializers: dict[str, NDArray] | None = None, *, opset: int = 18, functions: str = ""
) -> Path:
    """A model from ``name (inputs) => (outputs) { ... }``; functions follow as text of their own."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "local" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{body}")
    if functions:
        model.functions.append(onnx.parser.parse_function(functions))
    return save(model, path, initializers or {})


def one_node(path: Path, op_type: str, dtypes: list[int], output: int, **attributes: object) -> Path:
    """A model of one node over inputs of shape [2]."""
    inputs = [helper.make_tensor_value_info(f"x{i}", dtype, [2]) for i, dtype in enumerate(dtypes)]
    node = helper.make_node(op_type, [value.name for value in inputs], ["y"], name="node", **attributes)
    made = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("y", output, None)])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


FLOAT, INT32, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8
