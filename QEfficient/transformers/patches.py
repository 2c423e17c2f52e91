"""Every patch of third-party code: a context manager, why it is there, and since which version it is not needed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch.onnx._internal.exporter import _constants, _registration


@contextmanager
def reused_onnx_registry() -> Iterator[None]:
    """Build torch.onnx's operator registry once a process, not once an export (about 1 s each).

    torch 2.13; goes when ``torch.onnx.export`` keeps it. Safe because an export copies what it adds to.
    """
    original = vars(_registration.ONNXRegistry)["from_torchlib"]
    build = _registration.ONNXRegistry.from_torchlib

    def reused(opset_version: int = _constants.TORCHLIB_OPSET) -> _registration.ONNXRegistry:
        built = _torchlib(build, opset_version)
        copied = _registration.ONNXRegistry()
        copied._opset_version = built._opset_version
        copied.functions = {target: list(found) for target, found in built.functions.items()}
        return copied

    setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(reused))  # noqa: B010
    try:
        yield
    finally:
        setattr(_registration.ONNXRegistry, "from_torchlib", original)  # noqa: B010


@cache
def _torchlib(build: Any, opset_version: int) -> _registration.ONNXRegistry:
    return build(opset_version)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep torch.onnx from warning, at each export, about things that are not the user's.

    torch 2.13: that torchvision is not installed (goes when a missing optional package is no longer a warning
    there), and that pytree's own copies use a deprecated check (goes when they do not).
    """
    noisy = logging.getLogger(_registration.__name__)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        noisy.setLevel(level)
