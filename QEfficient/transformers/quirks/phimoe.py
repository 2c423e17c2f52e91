"""PhiMoE: the scale of a rotary embedding by the length of each token's sequence."""

from __future__ import annotations

from typing import Any

import torch

from QEfficient.transformers.lowering.rope import current_lens
from QEfficient.transformers.quirks import Quirk


def scaled_embedding(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The module's forward, which keeps the short factors and scales by length."""
    parameters = self.config.rope_parameters
    frequencies, scale = self.rope_init_fn(self.config)
    if parameters["rope_type"] == "longrope":
        is_long = current_lens(self, position_ids) > parameters["original_max_position_embeddings"]
        scale = torch.where(is_long, parameters["long_mscale"], parameters["short_mscale"])[..., None]
    angles = position_ids[..., None].float() * frequencies.float()
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)


QUIRK = Quirk(methods={"PhimoeRotaryEmbedding.forward": scaled_embedding})
