"""Arguments of an encoder that transformers' exporters compute on the host: positions, sequence lengths, windows.

Together with :mod:`QEfficient.exporter.trace` the only user of ``transformers.exporters``, which is experimental.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def precomputed(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of a call of ``module``, with those that depend on the sizes of its images and not on weights."""
    from transformers.exporters.utils import precompute_export_inputs

    inputs = dict(arguments)
    with torch.no_grad():
        precompute_export_inputs(module, inputs)
    return {name: value for name, value in inputs.items() if value is not None}
