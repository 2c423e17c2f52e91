"""FSMT: the causal mask that the decoder drops when it has a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def causal_decoder(self: Any, *args: object, decoder_causal_mask: Tensor | None = None, **kwargs: object) -> Any:
    """The decoder's forward, with a causal mask ``[B, 1, S, L]`` also when it has a cache."""
    step, cache = current_step(), kwargs.get("past_key_values")
    if step is not None and isinstance(cache, Cache):
        key_positions = cache.get_mask_sizes(step.position_ids.shape[1], 0)[1]
        seen = key_positions[:, None, None, :] <= step.position_ids[:, None, :, None]
        decoder_causal_mask = torch.where(seen, 0.0, MASKED)
    return type(self).forward(self, *args, decoder_causal_mask=decoder_causal_mask, **kwargs)


QUIRK = Quirk(methods={"FSMTDecoder.forward": causal_decoder})
