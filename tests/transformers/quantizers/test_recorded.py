"""Weights that other libraries wrote and dequantised: hqq 0.2.8.

Each file in ``recorded/`` has weights of several kinds, by the kind's name: the parts under the names that the library
gave them, and ``dequantized``, what the library makes of them in float32, in the weight's dtype. ``hqq.safetensors`` is
of ``HQQLinear.state_dict()`` and ``Quantizer.dequantize``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from QEfficient.transformers.checkpoint.unread import evaluate, mapped
from QEfficient.transformers.checkpoint.weight_files import WeightFiles
from QEfficient.transformers.quantizers.auto import FORMATS, quantized_weights
from QEfficient.transformers.quantizers.checks import Section

RECORDED = Path(__file__).parent / "recorded"


def kinds() -> Iterator[tuple[str, str]]:
    """Methods and kinds."""
    for path in sorted(RECORDED.iterdir()):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(".dequantized"):
                    yield path.stem, name.removesuffix(".dequantized")


@pytest.mark.parametrize(("method", "kind"), [*kinds()])
def test_weights_are_those_of_the_library(tmp_path: Path, method: str, kind: str) -> None:
    with safe_open(RECORDED / f"{method}.safetensors", "pt") as file:
        expected = file.get_tensor(f"{kind}.dequantized")
        parts = {name: file.get_tensor(name) for name in file.keys() if name.startswith(f"{kind}.")}  # noqa: SIM118
        save_file(parts | {"other.weight": torch.ones(2)}, tmp_path / "model.safetensors", file.metadata())
    scheme = FORMATS[method].from_config(Section(tmp_path / "config.json", "quantization_config", {}))
    weights = quantized_weights(scheme, WeightFiles(tmp_path), torch.nn.Module)
    assert [*weights.tensors] == [f"{kind}.weight"]
    weight = evaluate(weights.tensors[f"{kind}.weight"], mapped)
    assert weight.dtype == expected.dtype
    assert torch.equal(weight, expected)
