"""What the encoders of all systems have in common: text in, one vector a text out, and the time it takes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class EncoderRunner(ABC):
    """A loaded encoder with mean pooling."""

    @abstractmethod
    def encode(self, texts: list[str]) -> np.ndarray:
        """Vectors ``[n, hidden]`` of ``texts``."""

    def rate(self, batches: list[list[str]]) -> float:
        """Texts a second over the batches, one after the other, tokenizing included."""
        began = time.perf_counter()
        for texts in batches:
            self.encode(texts)
        return sum(map(len, batches)) / (time.perf_counter() - began)


def mean_pooled(states: Any, mask: Any) -> Any:
    """``[n, hidden]`` from hidden states ``[n, seq, hidden]`` and their mask ``[n, seq]``; torch or numpy."""
    weights = mask[..., None]
    return (states * weights).sum(1) / weights.sum(1)
