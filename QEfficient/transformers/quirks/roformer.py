"""RoFormer: rotary embeddings row by row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def rotated_by_row(self: Any, sinusoidal_pos: Tensor, *layers: Tensor) -> Any:
    """Rotated ``layers [B, H, S, D]``, each row by its row of ``sinusoidal_pos``."""
    if sinusoidal_pos.ndim == 5:  # [1, 1, B, S, D]
        sinusoidal_pos = sinusoidal_pos[0].transpose(0, 1)
    return type(self).apply_rotary_position_embeddings(sinusoidal_pos, *layers)


QUIRK = Quirk(methods={"RoFormerSelfAttention.apply_rotary_position_embeddings": rotated_by_row})
