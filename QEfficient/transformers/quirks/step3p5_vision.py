"""Step 3.7's encoder: embeddings of positions are interpolated for any size of an image, its usual one too."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from QEfficient.transformers.quirks import Quirk


def interpolated(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    """``[1, N, D]`` for the N patches of an image of ``height`` and ``width`` pixels."""
    side, dim = math.isqrt(self.position_embedding.weight.shape[0]), embeddings.shape[-1]
    table = self.position_embedding.weight.reshape(1, side, side, dim).permute(0, 3, 1, 2)
    size = (height // self.patch_size, width // self.patch_size)
    resized = functional.interpolate(table, size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(1, -1, dim)


QUIRK = Quirk(methods={"Step3p7VisionEmbeddings.interpolate_pos_encoding": interpolated})
