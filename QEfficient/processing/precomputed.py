"""Arguments of an encoder that transformers' exporters compute on the host: positions, sequence lengths, windows.

Together with :mod:`QEfficient.exporter.trace` the only user of ``transformers.exporters``, which is experimental.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.quirks import host_arguments


def precomputed(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of a call of ``module``, with those that depend on the sizes of its images and not on weights."""
    from transformers.exporters.utils import precompute_export_inputs

    inputs = dict(arguments)
    if not hasattr(module, "config"):
        return inputs  # they read it; a module without is inside of one with
    try:
        with torch.no_grad():
            precompute_export_inputs(module, inputs)
    except TypeError:
        return dict(arguments)  # it is inside of the module that they are computed for, and lacks sizes
    named = inspect.signature(module.forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in named.values())
    computed = {name: value for name, value in inputs.items() if value is not None and (takes_any or name in named)}
    return {**arguments, **computed, **host_arguments(module, arguments)}
