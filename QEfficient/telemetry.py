"""Keeps what this library imports from reporting home: OpenVINO, NNCF and the Hub client do so unless told not to."""

from __future__ import annotations

import os
import sys
from typing import cast

_SENDER = "openvino_telemetry"
"""What OpenVINO and NNCF send with; both do without where it cannot be imported."""


def turn_off_telemetry() -> None:
    """Send nothing from this process and those that it starts, unless ``QEFF_TELEMETRY=1``.

    Without effect on libraries that were imported before.
    """
    if os.environ.get("QEFF_TELEMETRY") == "1":
        return
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    cast("dict[str, object]", sys.modules).setdefault(_SENDER, None)
