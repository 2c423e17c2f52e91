"""What an export depends on besides the model.

Apart from the exporter, whose imports take a second that a process does not need when its package is in the store.
"""

from __future__ import annotations

from importlib.metadata import version

OPSET = 18
"""The newest opset that the card's compiler is known to accept."""


def toolchain() -> dict[str, str]:
    """Versions that affect the exported graph."""
    packages = ("torch", "transformers", "onnxscript", "onnx-ir")
    return {name: version(name) for name in packages} | {"opset": str(OPSET)}
