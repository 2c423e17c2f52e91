"""XLNet: predicts at an empty position after the newest token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from QEfficient.transformers.lowering.masks import with_float_mask
from QEfficient.transformers.lowering.recompute import Recomputed, one_longer
from QEfficient.transformers.quirks import Quirk


def with_target_mapping(config: PreTrainedConfig, tokens: Tensor, count: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Append an empty position that sees all tokens and is hidden from them; the next token is predicted there."""
    tokens, places = one_longer(tokens)
    hidden = (places >= count).float()[:, None].expand(-1, tokens.shape[1], -1)
    target = (places == count).float()[:, None]
    return {"input_ids": tokens, "perm_mask": hidden, "target_mapping": target}, torch.zeros_like(count)


QUIRK = Quirk(
    methods={"XLNetModel.forward": with_float_mask},
    recomputed=Recomputed(with_target_mapping, num_added=1),
)
