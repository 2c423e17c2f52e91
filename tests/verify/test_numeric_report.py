"""What the numeric report says of an examination."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
from verify.numeric_reports import numeric_report

from QEfficient.simulator.examination.result import Examination, LayerErrors, LossyNode
from QEfficient.verify.numeric_report import NumericReport


def test_report_is_json_and_text() -> None:
    finding = LossyNode(name="up", op_type="MatMul", layer=1, largest=1e5, num_lost=4, num_values=9)
    layers = [LayerErrors(layer=0, fp16=0.001, mxfp6=0.06), LayerErrors(layer=1, fp16=np.inf)]
    report = numeric_report(
        first_overflow=finding, num_overflowing=3, layers=layers, noise_margin=None, logit_noise=None, fp32_nodes=["up"]
    )
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["layers"][0] == {"layer": 0, "fp16": 0.001, "mxfp6": 0.06, "mxint8": None}
    assert stored["layers"][1]["fp16"] is None
    assert stored["first_overflow"]["name"] == "up"
    text = str(report)
    assert "up (MatMul, layer 1), 4 of 9 values lost, maximum magnitude 1e+05; 3 nodes overflow" in text
    assert "MXFP6 weights add 0.06" in text
    assert "--node-precision-info-out" in text
    assert "--node-precision-info nodes.yaml" in str(replace(report, node_precision_file="nodes.yaml"))


def test_in_float32_no_difference_is_noise() -> None:
    assert numeric_report().is_noise(0.02)
    assert not numeric_report(computes_fp16=False).is_noise(0.0)


def test_margins_up_to_the_noise_are_noise() -> None:
    assert not numeric_report().is_noise(0.0201)
    assert not numeric_report(noise_margin=None).is_noise(0.0)


def test_state_beyond_fp16_needs_another_precision() -> None:
    assert "precision='fp32'" in str(numeric_report(unresolved_nodes=["past_value.0_RetainedState"]))


def test_report_has_all_of_its_examination() -> None:
    examination = Examination(
        num_positions=3, first_overflow=None, first_underflow=None, num_overflowing=0, logit_noise=0.1, noise_margin=0.2
    )
    report = NumericReport.of(examination, computes_fp16=False)
    assert all(getattr(report, field.name) == getattr(examination, field.name) for field in fields(examination))
    assert not report.computes_fp16
