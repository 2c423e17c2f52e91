"""Tiny decoders and encoders for the card, written by hand, compiled by the simulated SDK; a reference in numpy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

VOCAB, HIDDEN, CTX = 24, 16, 16

_DECODER = """
<ir_version: 8, opset_import: ["" : 18]>
decoder (int64[batch_size, seq_len] input_ids, int64[batch_size, seq_len] position_ids,
         float[rows, 1, ctx_len, 16] past_key__0, float[rows, 1, ctx_len, 16] past_value__0{INPUTS})
     => (float[batch_size, {KEEP}, 24] logits, float[rows, 1, ctx_len, 16] past_key__0_RetainedState,
         float[rows, 1, ctx_len, 16] past_value__0_RetainedState)
{
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    axis_1 = Constant <value = int64[1] {1}> ()
    axis_last = Constant <value = int64[1] {-1}> ()
    known = Max (position_ids, zero)
    embedded = Gather (embed, input_ids)
    placed = Gather (places, known)
    hidden = Add (embedded, placed)
    q3 = MatMul (hidden, w_q)
    k3 = MatMul (hidden, w_k)
    v3 = MatMul (hidden, w_v)
    q = Unsqueeze (q3, axis_1)
    k = Unsqueeze (k3, axis_1)
    v = Unsqueeze (v3, axis_1)
{ROWS}
    nowhere = Constant <value = int64 {2147483647}> ()
    is_padding = Less (position_ids, zero)
    written = Where (is_padding, nowhere, position_ids)
    pos_axes = Constant <value = int64[2] {1, 3}> ()
    index_axes = Constant <value = int64[2] {2, 3}> ()
    pos = Unsqueeze (written, pos_axes)
    zeros = Sub (pos, pos)
    rows4 = Unsqueeze (row_of, index_axes)
    rows_full = Add (rows4, zeros)
    indices = Concat <axis = -1> (rows_full, zeros, pos)
    past_key__0_RetainedState = ScatterND (past_key__0, indices, k)
    past_value__0_RetainedState = ScatterND (past_value__0, indices, v)
    row_ids = Squeeze (row_of, axis_1)
    all_keys = Gather (past_key__0_RetainedState, row_ids)
    all_values = Gather (past_value__0_RetainedState, row_ids)
{CONTEXT}
    starts = Constant <value = int64[1] {0}> ()
    axes = Constant <value = int64[1] {2}> ()
    keys = Slice (all_keys, starts, ctx1, axes)
    values = Slice (all_values, starts, ctx1, axes)
    kt = Transpose <perm = [0, 1, 3, 2]> (keys)
    scores = MatMul (q, kt)
    ctx = Squeeze (ctx1)
    slots = Range (zero, ctx, one)
    seen_rows = Unsqueeze (position_ids, pos_axes)
    seen = LessOrEqual (slots, seen_rows)
    unseen = Constant <value = float {-10000.0}> ()
    masked = Where (seen, scores, unseen)
    shares = Softmax <axis = -1> (masked)
    mixed4 = MatMul (shares, values)
    mixed = Squeeze (mixed4, axis_1)
    both = Add (mixed, hidden)
    last = ArgMax <axis = 1, keepdims = 1> (position_ids)
{NEWEST}
    newest3 = Unsqueeze (newest, axis_last)
    states = GatherND <batch_dims = 1> (both, newest3)
    logits = MatMul (states, w_out)
}
"""
_PICKED = ("    row_of = Identity (batch_index)", ", int64[batch_size, 1] batch_index")
_OWN = ("    n1 = Shape <start = 0, end = 1> (input_ids)\n    n = Squeeze (n1)\n    every = Range (zero, n, one)\n"
        "    row_of = Unsqueeze (every, axis_1)", "")  # fmt: skip
_SHORT = ("    ctx1 = Shape (comp_ctx_lengths)", ", int64[comp_ctx_lengths] comp_ctx_lengths")
_WHOLE = ("    ctx1 = Shape <start = 2, end = 3> (past_key__0)", "")
_SEVERAL = (
    "    k1 = Shape <start = 0, end = 1> (num_logits_to_keep)\n    num = Squeeze (k1)\n"
    "    steps = Range (zero, num, one)\n    back = Sub (steps, num)\n    ahead = Add (back, one)\n"
    "    spread = Add (last, ahead)\n    newest = Max (spread, zero)",
    ", int64[num_logits_to_keep, 1] num_logits_to_keep",
)
_NEWEST = ("    newest = Identity (last)", "")

_ENCODER = """
<ir_version: 8, opset_import: ["" : 18]>
encoder (int64[batch_size, seq_len] input_ids, int64[batch_size, seq_len] attention_mask)
     => (float[batch_size, 16] output)
{
    axis_1 = Constant <value = int64[1] {1}> ()
    axis_2 = Constant <value = int64[1] {2}> ()
    hidden = Gather (embed, input_ids)
    mask2 = Cast <to = 1> (attention_mask)
    mask = Unsqueeze (mask2, axis_2)
    kept = Mul (hidden, mask)
    total = ReduceSum <keepdims = 0> (kept, axis_1)
    count = ReduceSum <keepdims = 1> (mask2, axis_1)
    output = Div (total, count)
}
"""


def weights() -> dict[str, NDArray]:
    rng = np.random.default_rng(5)
    shapes = {"embed": (VOCAB, 16), "places": (CTX, 16), "w_q": (16, 16), "w_k": (16, 16), "w_v": (16, 16)}
    made = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"w_out": rng.normal(0, 0.6, (16, VOCAB)).astype(np.float32)}


def reference(tokens: Sequence[int]) -> NDArray:
    """The decoder's logits ``[vocab]`` after ``tokens``."""
    w = weights()
    hidden = w["embed"][list(tokens)] + w["places"][: len(tokens)]
    scores = hidden[-1] @ w["w_q"] @ (hidden @ w["w_k"]).T
    shares = np.exp(scores - scores.max())
    return (shares / shares.sum() @ (hidden @ w["w_v"]) + hidden[-1]) @ w["w_out"]


def answer(prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens, one after the other."""
    tokens = list(prompt)
    while len(tokens) < min(CTX, len(prompt) + count):
        tokens.append(int(reference(tokens).argmax()))
    return tokens[len(prompt) :]


def decoder(folder: Path, *, batched: bool = False, ccl: bool = False, keep: bool = False) -> Path:
    """The ONNX file of a decoder whose next token depends on every token and its place."""
    parts = {
        "ROWS": _PICKED if batched else _OWN,
        "CONTEXT": _SHORT if ccl else _WHOLE,
        "NEWEST": _SEVERAL if keep else _NEWEST,
    }
    text = _DECODER.replace("{INPUTS}", "".join(inputs for _, inputs in parts.values()))
    for place, (lines, _) in parts.items():
        text = text.replace(f"{{{place}}}", lines)
    text = text.replace("{KEEP}", "num_logits_to_keep" if keep else "1")
    text = text.replace("[rows,", "[full_batch_size," if batched else "[batch_size,")
    return _save(text, folder / "decoder.onnx", weights())


def encoder(folder: Path) -> Path:
    """The ONNX file of an encoder that means the embeddings of a text."""
    return _save(_ENCODER, folder / "encoder.onnx", {"embed": weights()["embed"]})


def _save(text: str, path: Path, initializers: Mapping[str, NDArray]) -> Path:
    model = onnx.parser.parse_model(text)
    nodes = [names for node in model.graph.node for names in (node.input, node.output)]
    for names in nodes:
        names[:] = [name.replace("__", ".") for name in names]
    for value in (*model.graph.input, *model.graph.output):
        value.name = value.name.replace("__", ".")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def compiled(
    sdk: Path,
    model: Path,
    specializations: Sequence[Mapping[str, int]] | None,
    *flags: str,
    custom_io: Mapping[str, str] | None = None,
) -> Path:
    """The folder with ``qpc/programqpc.bin``, made by the SDK's own command."""
    folder = model.parent
    command = [str(sdk / "exec" / "qaic-compile"), "-aic-hw", f"-m={model}", "-retained-state", *flags]
    if specializations is not None:
        entries: list[dict[str, Any]] = [{name: str(n) for name, n in entry.items()} for entry in specializations]
        (folder / "specializations.json").write_text(json.dumps({"specializations": entries}))
        command.append(f"-network-specialization-config={folder / 'specializations.json'}")
    if custom_io:
        lines = [f" - IOName: {name}\n   Precision: {precision}\n" for name, precision in custom_io.items()]
        (folder / "custom_io.yaml").write_text("\n".join(lines))
        command.append(f"-custom-IO-list-file={folder / 'custom_io.yaml'}")
    cores = [] if any("cores" in flag for flag in flags) else ["-aic-num-cores=4"]
    done = subprocess.run([*command, *cores, f"-aic-binary-dir={folder / 'qpc'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
