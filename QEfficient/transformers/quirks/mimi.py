"""Mimi: convolutions over a stream from its beginning, and the nearest entries of codebooks by products."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from QEfficient.transformers.quirks import Quirk


def convolve(self: Any, hidden_states: torch.Tensor, padding_cache: object = None) -> torch.Tensor:
    """The module's forward over a stream that begins here: whole strides alone."""
    conv = self.conv
    (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
    before = (kernel - 1) * dilation + 1 - stride
    convolved: torch.Tensor = conv(nn.functional.pad(hidden_states, (before, 0), mode=self.pad_mode))
    return convolved


def _entries(codebook: Any) -> torch.Tensor:
    entries: torch.Tensor = codebook.embed_sum / codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
    return entries


def nearest_entry(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """``[N, D]`` to the places ``[N]`` of the nearest entries; what is the same for all entries is left out."""
    entries = _entries(self).float()
    return ((entries * entries).sum(-1) - 2 * hidden_states.float() @ entries.T).argmin(-1)


def entry(self: Any, embed_ind: torch.Tensor) -> torch.Tensor:
    """As the module's, which would keep its table after a trace."""
    return nn.functional.embedding(embed_ind, _entries(self))


QUIRK = Quirk(
    methods={
        "MimiConv1d.forward": convolve,
        "MimiEuclideanCodebook.quantize": nearest_entry,
        "MimiEuclideanCodebook.decode": entry,
    }
)
