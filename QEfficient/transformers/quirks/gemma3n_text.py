"""Gemma 3n: the sparsity threshold as a constant."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def gaussian_topk(self: Any, inputs: Tensor) -> Tensor:
    """ReLU above the ``activation_sparsity`` quantile of a normal distribution, for ``inputs [..., D]``."""
    multiplier = NormalDist().inv_cdf(float(self.activation_sparsity))
    mean, deviation = inputs.mean(-1, keepdim=True), inputs.std(-1, keepdim=True, unbiased=False)
    return torch.relu(inputs - (mean + deviation * multiplier))


QUIRK = Quirk(methods={"Gemma3nTextMLP._gaussian_topk": gaussian_topk})
