"""Parity reports: a good package agrees, a damaged one is found out, down to the layer."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from verify.numeric_reports import numeric_report

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.store.artifacts import open_artifact
from QEfficient.verify.parity import ParityReport, PromptParity, compare

pytestmark = pytest.mark.xdist_group("parity")

PROMPTS = [[5, 9, 33, 7, 120, 44, 8], [200, 11], list(range(40, 70))]
DAMAGED_LAYER = 1
CTX_LEN = 64


@pytest.fixture(scope="module")
def whole() -> Any:
    return tiny_models.causal_lm("llama", num_hidden_layers=3)


def changed(model: Any, change: Callable[[Any], None]) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


def damage_layer(model: Any) -> None:
    model.model.layers[DAMAGED_LAYER].mlp.down_proj.weight[0] += 0.5


def damage_head(model: Any) -> None:
    model.lm_head.weight.neg_()


@pytest.fixture(scope="module", params=["paged", "retained"])
def damaged(request: pytest.FixtureRequest, whole: Any) -> QEFFAutoModelForCausalLM:
    """Compiled from weights that differ from ``whole`` in one layer."""
    model = QEFFAutoModelForCausalLM(changed(whole, damage_layer))
    model.compile(ctx_len=CTX_LEN, precision="fp32", lowering=request.param, prefill_seq_len=16, full_batch_size=2)
    return model


def test_package_agrees_with_the_weights_it_was_made_of(damaged: QEFFAutoModelForCausalLM) -> None:
    report = damaged.verify(PROMPTS, generation_len=16)
    assert report.agrees
    assert [prompt.prompt_len for prompt in report.prompts] == [7, 2, 30]
    for prompt in report.prompts:
        assert prompt.agrees
        assert prompt.num_agreed == prompt.num_compared == 16
        assert prompt.smallest_margin is not None
        assert prompt.smallest_margin > 0
        assert prompt.layer_errors is prompt.first_layer is prompt.margin_at_divergence is None
    assert str(report).startswith("agrees: 48 of 48")


def test_damaged_layer_is_named(damaged: QEFFAutoModelForCausalLM, whole: Any) -> None:
    report = compare(whole, damaged._open(), PROMPTS, 16)
    assert not report.agrees
    parted = [prompt for prompt in report.prompts if not prompt.agrees]
    for prompt in parted:
        assert prompt.num_agreed < prompt.num_compared
        assert prompt.first_layer == DAMAGED_LAYER
        assert prompt.layer_errors is not None
        assert len(prompt.layer_errors) == 3
        assert max(prompt.layer_errors[:DAMAGED_LAYER]) < 1e-4
        assert min(prompt.layer_errors[DAMAGED_LAYER:]) > 0.01
        assert prompt.margin_at_divergence is not None
    assert str(report).startswith("DIFFERS")
    assert f"first differing layer: {DAMAGED_LAYER} (relative error" in str(report)


def test_damaged_head_is_told_from_a_layer(damaged: QEFFAutoModelForCausalLM) -> None:
    report = compare(changed(damaged.model, damage_head), damaged._open(), PROMPTS[:1], 4)
    (prompt,) = report.prompts
    assert not prompt.agrees
    assert prompt.num_agreed == 0
    assert prompt.smallest_margin is None
    assert prompt.first_layer is None
    assert prompt.layer_errors is not None
    assert max(prompt.layer_errors) < 1e-4
    assert "only the head" in str(report)


def test_report_is_kept_in_the_package(damaged: QEFFAutoModelForCausalLM) -> None:
    report = damaged.verify(PROMPTS[:2], generation_len=4)
    assert damaged.qpc_path is not None
    artifact = open_artifact(damaged.qpc_path, fresh=True)
    assert artifact.manifest.body["parity"] == json.loads(json.dumps(report.to_dict()))
    opened = QEFFAutoModelForCausalLM.from_package(damaged.qpc_path)
    assert opened.generate(PROMPTS[:1], generation_len=4).generated_ids[0].shape == (4,)
    damaged.verify(PROMPTS[:1], generation_len=2)
    assert len(open_artifact(damaged.qpc_path, fresh=True).manifest.body["parity"]["prompts"]) == 1, "the newest"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_output_that_is_no_number_is_found_and_stored(
    damaged: QEFFAutoModelForCausalLM, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """What an overflow in half precision looks like, in layer 1 and after."""
    compiled = damaged._open()
    layers = compiled.layer_outputs(PROMPTS[0])
    damaged_layers = [layers[0], *(np.full_like(layer, bad) for layer in layers[1:])]
    monkeypatch.setattr(compiled, "layer_outputs", lambda ids, adapter=None: damaged_layers)
    answer = [np.array([3], np.int64)]
    monkeypatch.setattr(compiled, "generate", lambda *_, **__: type("Info", (), {"generated_ids": answer}))
    report = damaged.verify(PROMPTS[:1], generation_len=4)
    (prompt,) = report.prompts
    assert prompt.first_layer == 1
    assert prompt.layer_errors is not None
    assert prompt.layer_errors[0] < 1e-4
    assert prompt.layer_errors[1] > 1
    assert open_artifact(compiled.path, fresh=True).manifest.body["parity"]["prompts"][0]["first_layer"] == 1
    assert "layer: 1" in str(report)


def prompt(**changes: Any) -> PromptParity:
    return replace(PromptParity(prompt_len=3, num_compared=4, num_agreed=4, smallest_margin=0.5), **changes)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_report_is_json_whatever_the_numbers(number: float) -> None:
    parted = prompt(num_agreed=1, smallest_margin=number, margin_at_divergence=number, layer_errors=[0.1, number])
    found = json.loads(json.dumps(ParityReport([prompt(), parted]).to_dict(), allow_nan=False))
    assert found["agrees"] is False
    assert found["prompts"][0] == {
        "prompt_len": 3,
        "num_compared": 4,
        "num_agreed": 4,
        "smallest_margin": 0.5,
        "margin_at_divergence": None,
        "layer_errors": None,
        "first_layer": None,
        "feature_errors": None,
        "is_within_noise": None,
    }
    assert found["prompts"][1]["layer_errors"] == [0.1, None]
    assert "diverges at token 2 of 4" in str(ParityReport([parted]))


def test_one_prompt_that_parts_is_enough() -> None:
    assert ParityReport([prompt(), prompt()]).agrees
    assert not ParityReport([prompt(), prompt(num_agreed=3)]).agrees


def test_prompt_that_does_not_fit(damaged: QEFFAutoModelForCausalLM) -> None:
    with pytest.raises(CapacityError, match=f"ctx_len={CTX_LEN}"):
        damaged.verify([[5] * CTX_LEN])


def test_answer_is_compared_up_to_the_end_of_the_context(damaged: QEFFAutoModelForCausalLM) -> None:
    report = damaged.verify([[5, 6] * 29], generation_len=32)
    assert report.agrees
    assert report.prompts[0].num_compared == CTX_LEN - 58


@pytest.mark.parametrize(
    ("margin", "changes", "is_noise"),
    [
        (0.02, {}, True),
        (0.04, {}, False),
        (0.02, {"noise_margin": None}, False),
        (0.02, {"computes_fp16": False}, False),
        (math.nan, {}, False),
    ],
)
def test_difference_is_judged_by_the_noise(margin: float, changes: dict[str, Any], is_noise: bool) -> None:
    parted = prompt(num_agreed=1, margin_at_divergence=margin)
    report = ParityReport([prompt(), parted]).with_numerics(numeric_report(**changes))
    assert [each.is_within_noise for each in report.prompts] == [None, is_noise]
    assert not report.agrees
    assert report.has_fault is not is_noise
    assert str(report).startswith("agrees within the noise" if is_noise else "DIFFERS")
    assert ("beyond the noise" in str(report)) is not is_noise
    assert report.to_dict()["numerics"]["num_positions"] == 5


def test_difference_that_nothing_was_measured_for_is_a_fault() -> None:
    assert ParityReport([prompt(num_agreed=3)]).has_fault
    assert not ParityReport([prompt()]).has_fault


CARD = {"target": "cloud-ai-100-sim", "ctx_len": CTX_LEN, "prefill_seq_len": 16, "full_batch_size": 2}


def overflow(model: Any) -> None:
    """The product inside an MLP goes beyond 65504, what leaves the MLP is as before."""
    mlp = model.model.layers[DAMAGED_LAYER].mlp
    mlp.up_proj.weight *= 3e4
    mlp.down_proj.weight /= 3e4


@pytest.fixture(scope="module")
def overflowing() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(changed(tiny_models.causal_lm("llama"), overflow))


@pytest.fixture(scope="module")
def nodes_file(overflowing: QEFFAutoModelForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the doctor writes."""
    file = tmp_path_factory.mktemp("nodes") / "nodes.yaml"
    overflowing.compile(**CARD)
    overflowing.onnx_path = None  # as where the package was found in the store
    report = overflowing.verify(PROMPTS, generation_len=4, node_precision_out=file)
    assert report.numerics is not None
    assert report.numerics.node_precision_file == str(file)
    return file


def test_overflow_is_found_and_stored(overflowing: QEFFAutoModelForCausalLM, nodes_file: Path) -> None:
    assert overflowing.qpc_path is not None
    stored = open_artifact(overflowing.qpc_path, fresh=True).manifest.body["parity"]
    assert stored["has_fault"]
    assert {each["is_within_noise"] for each in stored["prompts"]} == {False}
    found = stored["numerics"]
    first = found["first_overflow"]
    assert (first["op_type"], first["layer"]) == ("MatMul", DAMAGED_LAYER)
    assert first["largest"] > 65520
    assert found["layers"][0]["fp16"] < 0.01
    assert found["layers"][DAMAGED_LAYER]["fp16"] is None
    content = yaml.safe_load(nodes_file.read_text())
    assert content == {"FP32NodeInstanceNames": found["fp32_nodes"]}
    # up_proj, the product with the gate, and down_proj, which brings it back into range
    assert found["fp32_nodes"][0] == first["name"]
    assert len(found["fp32_nodes"]) == 3


def test_with_these_nodes_in_float32_it_agrees(overflowing: QEFFAutoModelForCausalLM, nodes_file: Path) -> None:
    overflowing.compile(**CARD, node_precision_info=str(nodes_file))
    report = overflowing.verify(PROMPTS, generation_len=8, node_precision_out=nodes_file.with_name("more.yaml"))
    assert report.agrees
    assert report.numerics is not None
    assert not report.numerics.overflows
    assert report.numerics.noise_margin is not None
    assert 0 < report.numerics.noise_margin < 0.1
    assert [layer.layer for layer in report.numerics.layers] == [0, 1]
    assert all(0 < layer.fp16 < 0.01 for layer in report.numerics.layers)
    assert not nodes_file.with_name("more.yaml").exists(), "there is nothing to add"


def test_the_package_brings_its_nodes_along(
    overflowing: QEFFAutoModelForCausalLM, nodes_file: Path, tmp_path: Path
) -> None:
    """A path in a package's description is one of another machine: nothing is read there."""
    copy = tmp_path / "nodes.yaml"
    copy.write_text(nodes_file.read_text())
    package = overflowing.compile(**CARD, node_precision_info=str(copy))
    copy.write_text("not such a file")
    assert (package / "node_precision_info.yaml").read_text() == nodes_file.read_text()
    assert overflowing.verify(PROMPTS[:1], generation_len=2).agrees


def test_what_block_formats_add_to_each_layer(overflowing: QEFFAutoModelForCausalLM, nodes_file: Path) -> None:
    overflowing.compile(**CARD, node_precision_info=str(nodes_file), mxfp6_matmul=True, mxint8_kv_cache=True)
    report = overflowing.verify(PROMPTS[:1], generation_len=2)
    assert report.numerics is not None
    for layer in report.numerics.layers:
        assert layer.mxfp6 is not None
        assert layer.mxint8 is not None
        assert layer.fp16 < layer.mxint8 < layer.mxfp6 < 0.5


def test_in_float32_it_agrees_and_says_what_fp16_would_do(overflowing: QEFFAutoModelForCausalLM) -> None:
    overflowing.compile(**CARD, precision="fp32")
    report = overflowing.verify(PROMPTS[:1], generation_len=4)
    assert report.agrees
    assert report.numerics is not None
    assert not report.numerics.computes_fp16
    assert len(report.numerics.fp32_nodes) == 3
    assert "would" in str(report)


def test_nodes_cannot_be_written_for_the_processor(damaged: QEFFAutoModelForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="target is 'cpu'"):
        damaged.verify(PROMPTS, node_precision_out=tmp_path / "nodes.yaml")
    assert damaged.verify(PROMPTS[:1], generation_len=1).numerics is None


def test_nodes_need_a_folder(overflowing: QEFFAutoModelForCausalLM, nodes_file: Path) -> None:
    with pytest.raises(OptionError, match="nowhere"):
        overflowing.verify(PROMPTS, node_precision_out=nodes_file.parent / "nowhere" / "nodes.yaml")


def test_a_package_alone_has_nothing_to_compare_with(damaged: QEFFAutoModelForCausalLM) -> None:
    assert damaged.qpc_path is not None
    with pytest.raises(LifecycleError, match="opened from a package"):
        QEFFAutoModelForCausalLM.from_package(damaged.qpc_path).verify(PROMPTS)
