"""Moonshine Streaming: samples filled up to whole frames as its processor does, always with the mask that this brings,
without which its encoder has no windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from QEfficient.transformers.quirks import Quirk


def in_whole_frames(self: Any, input_values: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings of samples ``[B, T]`` and their mask; samples that fill no frame are silent."""
    length = input_values.shape[1]
    added = (length + self.frame_len - 1) // self.frame_len * self.frame_len - length
    mask = torch.ones_like(input_values, dtype=torch.int64) if padding_mask is None else padding_mask.to(torch.int64)
    values, mask = (nn.functional.pad(each, (0, added)) for each in (input_values, mask))
    embeddings: tuple[Tensor, Tensor] = type(self).forward(self, values, mask)
    return embeddings


QUIRK = Quirk(methods={"MoonshineStreamingEncoderEmbedder.forward": in_whole_frames}, completes=True)
