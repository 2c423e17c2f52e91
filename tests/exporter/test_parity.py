"""Parity reports: a good package agrees, a damaged one is found out, down to the layer."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.base.artifacts import open_artifact
from QEfficient.errors import CapacityError
from QEfficient.exporter.parity import ParityReport, PromptParity, compare

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
    monkeypatch.setattr(compiled, "layer_outputs", lambda ids: damaged_layers)
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
    }
    assert found["prompts"][1]["layer_errors"] == [0.1, None]
    assert str(ParityReport([parted]))


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
