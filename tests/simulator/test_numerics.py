"""Number formats against numbers worked out by hand, and against the published error figures of the card."""

from __future__ import annotations

import numpy as np
import pytest

from QEfficient.simulator import numerics


def block(*values: float, rest: float = 0.0) -> np.ndarray:
    return np.array([*values, *[rest] * (32 - len(values))], np.float32)


def test_fp16_overflows_and_underflows() -> None:
    values = np.array([65504, 65519, 65520, -1e6, 2.0**-24, 2.0**-26, 2049, 1 / 3, np.inf], np.float32)
    expected = [65504, 65504, np.inf, -np.inf, 2.0**-24, 0, 2048, 0.333251953125, np.inf]
    assert numerics.round_fp16(values).tolist() == expected


def test_bf16_rounds_to_even_and_keeps_nan() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.5, 3.4e38, np.nan, -np.inf], np.float32)
    rounded = numerics.round_bf16(values)
    assert rounded[:3].tolist() == [1.0, 1 + 2**-6, -1.5]
    assert np.isinf(rounded[3])
    assert np.isnan(rounded[4])
    assert rounded[5] == -np.inf
    assert numerics.to_bf16_bits(np.float32([1.0])).tolist() == [0x3F80]


# The largest value is 1: "aic" scales by 1/2, so 1 is stored as 2 and the steps from 1/2 on are 1/16·2, "ocp" by 1/4.
@pytest.mark.parametrize(
    ("variant", "value", "expected"),
    [
        ("aic", 1.0, 1.0),
        ("aic", 0.5, 0.5),
        ("aic", 0.53, 0.5),
        ("aic", 0.54, 0.5625),
        ("aic", 0.53125, 0.5),  # a tie goes to the even one
        ("aic", 0.03, 0.0),
        ("aic", 0.04, 0.0625),
        ("ocp", 0.53, 0.53125 - 0.03125),
        ("ocp", 0.515, 0.5),
        ("ocp", 0.03, 0.03125),
        ("ocp", 0.26, 0.25),
        ("ocp", 0.28, 0.28125),
    ],
)
def test_mxfp6_grid(variant: str, value: float, expected: float) -> None:
    rounded = numerics.round_mxfp6(block(1.0, value, -value), 0, variant)
    assert rounded[:3].tolist() == [1.0, expected, -expected]
    assert not rounded[3:].any()


def test_mxfp6_ocp_saturates() -> None:
    assert numerics.round_mxfp6(block(1.99), 0, "ocp")[0] == 1.875
    assert numerics.round_mxfp6(block(1.99), 0, "aic")[0] == 2.0


def test_mxfp6_error_is_the_cards() -> None:
    """A gated MLP of Gaussian weights, 256 × 128: its answer is 6.0 % off on the device, 4.9 % by the OCP rule."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 256))
    weights = [rng.normal(0, 1 / 16, shape) for shape in ((256, 128), (256, 128), (128, 256))]

    def answer(gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        gated = x @ gate
        return (gated / (1 + np.exp(-gated)) * (x @ up)) @ down

    def error(variant: str) -> float:
        exact = answer(*weights)
        return float(np.linalg.norm(answer(*(numerics.round_mxfp6(w, 0, variant) for w in weights)) - exact)) / float(
            np.linalg.norm(exact)
        )

    assert error("aic") == pytest.approx(0.060, abs=0.004)
    assert error("ocp") == pytest.approx(0.049, abs=0.002)


def test_mxfp6_blocks_run_along_the_axis() -> None:
    weights = np.ones((64, 2), np.float32) * np.float32(0.03)
    weights[0] = 1.0
    along_rows = numerics.round_mxfp6(weights, 0)
    assert not along_rows[1:32].any()  # they share their scale with 1.0
    assert along_rows[32:] == pytest.approx(0.03, rel=0.05)
    assert numerics.round_mxfp6(weights, 1)[1:32] == pytest.approx(0.03, rel=0.05)


def test_mxint8_grid() -> None:
    rounded = numerics.round_mxint8(block(1.0, 0.503, 1 / 128, 3 / 128, -0.999))
    assert rounded[:5].tolist() == [1.0, 0.5, 0.0, 2 / 64, -1.0]
    assert numerics.round_mxint8(block(1.9999))[0] == 127 / 64


def test_mxint8_error_and_partial_blocks() -> None:
    values = np.random.default_rng(0).normal(size=(100, 40)).astype(np.float32)
    rounded = numerics.round_mxint8(values)
    assert rounded.shape == values.shape
    assert np.linalg.norm(rounded - values) / np.linalg.norm(values) == pytest.approx(0.0075, abs=0.0007)
    np.testing.assert_array_equal(numerics.round_mxint8(rounded), rounded)


def test_zeros_and_unknown_variants() -> None:
    zeros = np.zeros((3, 32), np.float32)
    np.testing.assert_array_equal(numerics.round_mxfp6(zeros, 1), zeros)
    np.testing.assert_array_equal(numerics.round_mxint8(zeros), zeros)
    with pytest.raises(ValueError, match="expected one of aic, ocp"):
        numerics.round_mxfp6(zeros, 1, "e3m2")
