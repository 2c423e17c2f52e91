"""Reports on number formats for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from QEfficient.verify.numeric_report import NumericReport


def numeric_report(**changes: Any) -> NumericReport:
    """A report without overflow whose noise is up to 0.02, with ``changes``."""
    plain = NumericReport(
        computes_fp16=True,
        num_positions=5,
        first_overflow=None,
        first_underflow=None,
        num_overflowing=0,
        logit_noise=0.01,
        noise_margin=0.02,
    )
    return replace(plain, **changes)
