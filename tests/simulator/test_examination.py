"""The examination of a small decoder: lossy nodes, errors, and the nodes to keep in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from simulator import graphs

from QEfficient.errors import CompileError
from QEfficient.simulator.compiler.configuration import NodePrecision
from QEfficient.simulator.examination.examine import NUM_DECODED, Subject, examine, plan_steps
from QEfficient.simulator.examination.tallies import LogitTally, Tally

PROMPTS = [[3, 5, 1, 7, 2, 9, 4], [6]]
SIZES = {"batch_size": 1, "ctx_len": 8}


def scaled(decoder: Path, folder: Path, **factors: float) -> Subject:
    """The decoder with some of its weights multiplied."""
    model = onnx.load(decoder)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            values = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, folder / "scaled.onnx")
    return Subject(model=folder / "scaled.onnx", sizes=SIZES, chunk_len=4)


@pytest.fixture
def subject(decoder: Path, tmp_path: Path) -> Subject:
    """Its normalisation stands for a layer."""
    model = onnx.load(decoder)
    for node in model.graph.node:
        node.input[:] = ["layer.0" if name == "hidden" else name for name in node.input]
        node.output[:] = ["layer.0" if name == "hidden" else name for name in node.output]
    onnx.save(model, tmp_path / "m.onnx")
    return Subject(model=tmp_path / "m.onnx", sizes=SIZES, chunk_len=4, layers=["layer.0", "no such value"])


def test_a_model_that_fp16_is_enough_for(subject: Subject) -> None:
    report = examine(subject, PROMPTS)
    assert report.first_overflow is None
    assert not report.overflows
    assert report.fp32_nodes == report.unresolved_nodes == []
    assert report.num_positions == 1 + NUM_DECODED + 1
    (layer,) = report.layers
    assert (layer.layer, layer.mxfp6, layer.mxint8) == (0, None, None)
    assert 1e-5 < layer.fp16 < 1e-3
    assert report.logit_noise is not None
    assert report.noise_margin is not None
    assert 0 < report.logit_noise <= report.noise_margin <= 2 * report.logit_noise


def test_block_formats_add_to_it(subject: Subject) -> None:
    """MXFP6 weights come after the layer mark, the MXINT8 state too: only the logits tell."""
    plain = examine(subject, PROMPTS).logit_noise
    cache = examine(replace(subject, mxint8=True), PROMPTS).logit_noise
    weights = examine(replace(subject, mxfp6=True), PROMPTS).logit_noise
    both = examine(replace(subject, mxfp6=True, mxint8=True), PROMPTS)
    assert plain is not None
    assert cache is not None
    assert weights is not None
    assert 2 * plain < cache < weights
    assert both.logit_noise not in (plain, cache, weights)
    assert (both.layers[0].mxfp6, both.layers[0].mxint8) == (0.0, 0.0)
    assert both.layers[0].fp16 > 0


def test_mxint8_counts_from_the_second_step_on(subject: Subject) -> None:
    """Within a step the card computes with what it has just made."""
    noise = [examine(replace(subject, mxint8=is_block), [[3]]).logit_noise for is_block in (False, True)]
    assert noise[0] == noise[1]


def test_nodes_that_must_stay_in_float32(decoder: Path, tmp_path: Path) -> None:
    """The scores overflow, and what reads them has to see them; after the softmax they are small."""
    subject = scaled(decoder, tmp_path, w_q=3e3, w_k=3e3)
    report = examine(subject, PROMPTS)
    assert report.first_overflow is not None
    assert (report.first_overflow.name, report.first_overflow.op_type) == ("scores", "MatMul")
    assert report.first_overflow.largest > 65520
    assert 0 < report.first_overflow.num_lost < report.first_overflow.num_values
    assert report.logit_noise is report.noise_margin is None
    assert report.fp32_nodes == ["scores", "masked", "probabilities"]
    nodes = NodePrecision(fp32=frozenset(report.fp32_nodes))
    cured = examine(replace(subject, nodes=nodes), PROMPTS)
    assert not cured.overflows
    assert cured.logit_noise is not None
    assert cured.fp32_nodes == []


def test_nodes_already_in_float32_are_not_named_again(decoder: Path, tmp_path: Path) -> None:
    subject = scaled(decoder, tmp_path, w_q=3e3, w_k=3e3)
    given = NodePrecision(fp32=frozenset({"scores"}), fp16=frozenset({"masked"}))
    assert examine(replace(subject, nodes=given), PROMPTS).fp32_nodes == ["masked", "probabilities"]


def test_a_norm_is_one_node_and_reads_what_overflows(decoder: Path, tmp_path: Path) -> None:
    subject = scaled(decoder, tmp_path, embed=1e6)
    report = examine(subject, PROMPTS)
    assert {"embedded", "hidden"} <= set(report.fp32_nodes)
    assert not {"q3", "k3", "v3", "scores"} & set(report.fp32_nodes)
    cured = examine(replace(subject, nodes=NodePrecision(fp32=frozenset(report.fp32_nodes))), PROMPTS)
    assert not cured.overflows


def test_state_beyond_fp16_cannot_be_cured(decoder: Path, tmp_path: Path) -> None:
    report = examine(scaled(decoder, tmp_path, w_v_t=1e6), PROMPTS)
    assert report.unresolved_nodes == ["past_value.0_RetainedState"]
    assert report.fp32_nodes == []


COUNTER = """g (int64[batch_size, seq_len] input_ids, int64[batch_size, seq_len] position_ids,
    float[batch_size, 1, 2] first, float[batch_size, 1, 2] second)
    => (float[batch_size, seq_len, 2] logits, float[batch_size, 1, 2] first_RetainedState,
        float[batch_size, 1, 2] second_RetainedState) {
    embedded = Gather (embed, input_ids)
    big = Mul (embedded, large)
    inverse = Reciprocal (big)
    back = Mul (big, small)
    total = ReduceMean (back, axis)
    old = Neg (first)
    first_RetainedState = Sub (total, old)
    nothing = Sub (first_RetainedState, first_RetainedState)
    second_RetainedState = Add (second, nothing)
    logits = Add (inverse, second_RetainedState)
}"""


def counter(folder: Path, small: float) -> Subject:
    """Two states: what ``big`` leads to by way of ``back``, and zeros unless that is no number."""
    constants = {
        "embed": np.array([[0.5, 1.0], [2.0, 0.7]], np.float32),
        "large": np.array([2e5], np.float32),
        "small": np.array([small], np.float32),
        "axis": np.array([1]),
    }
    model = graphs.parse(folder / "counter.onnx", COUNTER, constants)
    return Subject(model=model, sizes={"batch_size": 1}, chunk_len=4)


def test_what_reads_an_overflow_stays_in_float32_and_what_state_brings_back_does_not(tmp_path: Path) -> None:
    """``inverse`` is wrong without overflowing; ``old`` overflows in the second step by the state of the first."""
    report = examine(counter(tmp_path, small=1e-5), [[0, 1, 0]])
    assert report.num_overflowing > 3
    assert report.fp32_nodes == ["big", "inverse", "back"]


def test_only_the_state_that_is_beyond_fp16_is_named(tmp_path: Path) -> None:
    report = examine(counter(tmp_path, small=1.0), [[0, 1, 0]])
    assert report.unresolved_nodes == ["first_RetainedState"]


def test_underflow_is_found(decoder: Path, tmp_path: Path) -> None:
    report = examine(scaled(decoder, tmp_path, w_v_t=1e-9), PROMPTS)
    assert report.first_underflow is not None
    assert report.first_underflow.name == "v3"
    assert report.first_underflow.largest < 1e-6
    assert report.first_overflow is None


def test_what_counts_as_lost() -> None:
    tally = Tally()
    wide = np.array([1e5, 1e-9, 0.0, 1e-3, np.inf, 7.0], np.float32)
    half = np.array([np.inf, 0.0, 0.0, 0.0, np.inf, 7.0], np.float32)
    tally.add(wide, half)
    assert (tally.num_values, tally.num_overflowed, tally.num_underflowed, tally.largest) == (6, 1, 1, 1e5)


def test_a_shift_of_all_logits_moves_no_token() -> None:
    tally = LogitTally()
    tally.add(np.array([[1.0, 2.0, -np.inf]]), np.array([[1.5, 2.5, 0.0]]))
    assert (tally.largest, tally.widest, tally.num_positions, tally.is_finite) == (0.5, 0.0, 1, True)
    tally.add(np.array([[1.0, 2.0]]), np.array([[1.5, 1.5]]))
    assert (tally.largest, tally.widest) == (0.5, 1.0)
    tally.add(np.array([[1.0, 2.0]]), np.array([[np.nan, 1.5]]))
    assert not tally.is_finite


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (1, [(0, 1)]),
        (3, [(0, 1), (1, 2), (2, 3)]),
        (NUM_DECODED + 5, [(0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)]),
    ],
)
def test_steps_of_a_prompt(num_tokens: int, expected: list[tuple[int, int]]) -> None:
    steps = plan_steps(range(num_tokens), 4)
    assert [(step.start, step.start + len(step.tokens)) for step in steps] == expected
    assert [token for step in steps for token in step.tokens] == list(range(num_tokens))


def test_an_axis_without_a_size_is_named(subject: Subject) -> None:
    with pytest.raises(CompileError, match=r"past_.*ctx_len"):
        examine(replace(subject, sizes={"batch_size": 1}), PROMPTS)
