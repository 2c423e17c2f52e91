"""LED: padding to whole windows and local attention, without reading mask values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from QEfficient.transformers.quirks import Quirk


def local_attention(self: Any, *args: object, is_global_attn: bool | None = None, **kwargs: object) -> Any:
    """The module's forward, with no global tokens."""
    return type(self).forward(self, *args, is_global_attn=False, **kwargs)


def padded_to_window(
    self: Any, input_ids: Tensor, attention_mask: Tensor, inputs_embeds: Tensor, pad_token_id: int
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Tokens, mask and embeddings padded to whole windows, ``[B, S]``, ``[B, S]`` and ``[B, S, D]``.

    The number of padded tokens is 0, so that the original cuts nothing off; the caller of the encoder does.
    """
    window = max(self.config.attention_window)
    num_added = (input_ids.shape[1] + window - 1) // window * window - input_ids.shape[1]
    added = input_ids.new_full((input_ids.shape[0], num_added), pad_token_id)
    embeds = torch.cat([inputs_embeds, self.embed_tokens(added)], 1)
    return 0, torch.cat([input_ids, added], 1), nn.functional.pad(attention_mask, (0, num_added)), embeds


QUIRK = Quirk(
    methods={
        "LEDEncoder._pad_to_window_size": padded_to_window,
        "LEDEncoderSelfAttention.forward": local_attention,
    }
)
