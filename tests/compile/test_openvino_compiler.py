"""What the CPU compiler promises about weights: they stay small until they are multiplied by."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM, from_package
from QEfficient.compile.openvino_rewrites import fold_weight_transposes, separate_integer_reductions
from QEfficient.generation.sessions.session import Chunk

WIDE = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 320}


def layer_types(package: Path) -> Counter[str]:
    """How many nodes of each kind run in one step."""
    with from_package(package, compiler_options={"PERF_COUNT": True}) as compiled:
        session = compiled.engine.session
        session.step([Chunk(0, [5, 6, 7], 0, block_ids=[0])])
        return Counter(entry.node_type for entry in session._request.profiling_info)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_compressed_weights_are_multiplied_as_they_are(weight_format: str, dtype: torch.dtype) -> None:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama", **WIDE).to(dtype))
    found = layer_types(model.compile(ctx_len=64, weight_format=weight_format))
    assert found["FullyConnectedCompressed"] == 15, found
    assert found["FullyConnected"] == 0, found


def test_int8_is_close_to_the_checkpoint_and_closer_than_int4() -> None:
    ids = torch.randint(3, 320, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama", **WIDE))
    outputs = {}
    for weight_format in (None, "int8", "int4"):
        model.compile(ctx_len=64, weight_format=weight_format, precision="fp32")
        outputs[weight_format] = model._open().layer_outputs(ids)[-1]
    exact = np.linalg.norm(outputs[None])
    errors = {name: np.linalg.norm(outputs[name] - outputs[None]) / exact for name in ("int8", "int4")}
    assert 0 < errors["int8"] < 0.1 < errors["int4"] < 0.8, errors


def test_fold_weight_transposes_keeps_the_result_and_the_names() -> None:
    x = ops.parameter([2, 3, 8], ov.Type.f32, name="x")
    weight = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    product = ops.matmul(x, ops.transpose(ops.constant(weight), ops.constant([1, 0])), False, False)
    product.output(0).set_names({"product"})
    model = ov.Model([product], [x])
    assert fold_weight_transposes(model) == 1
    assert not [node for node in model.get_ops() if node.get_type_name() == "Transpose"]
    given = np.ones((2, 3, 8), np.float32)
    result = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": given})
    np.testing.assert_allclose(result["product"], given @ weight.T, rtol=1e-5)


def test_transposes_of_other_axes_stay() -> None:
    x = ops.parameter([4, 2, 8], ov.Type.f32, name="x")
    weight = ops.constant(np.ones((4, 8, 5), np.float32))
    kept = ops.matmul(
        x, ops.transpose(ops.transpose(weight, ops.constant([0, 1, 2])), ops.constant([0, 1, 2])), False, False
    )
    assert fold_weight_transposes(ov.Model([kept], [x])) == 0


@pytest.mark.parametrize("operation", ["multiply", "add"])
@pytest.mark.parametrize("reduction", ["sum", "max", "min", "mean", "prod"])
def test_operators_after_integer_reductions_reach_all_rows(reduction: str, operation: str) -> None:
    x = ops.parameter([-1, 4, 3], ov.Type.i64, name="x")
    reduced = getattr(ops, f"reduce_{reduction}")(x, ops.constant([2]), False)
    model = ov.Model([getattr(ops, operation)(reduced, ops.constant(4, ov.Type.i64))], [x])
    assert separate_integer_reductions(model) == 1
    values = np.random.default_rng(0).integers(0, 9, (8, 4, 3))
    result = ov.Core().compile_model(model, "CPU")({"x": values})[0]
    exact = getattr(values, reduction)(2)
    expected = np.trunc(exact) * 4 if operation == "multiply" else np.trunc(exact) + 4
    np.testing.assert_array_equal(result, expected)


def test_reductions_of_floats_stay_fused() -> None:
    x = ops.parameter([-1, 4, 3], ov.Type.f32, name="x")
    model = ov.Model([ops.reduce_sum(x, ops.constant([2]), False)], [x])
    assert separate_integer_reductions(model) == 0
