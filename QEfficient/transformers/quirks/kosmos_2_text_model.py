"""Kosmos-2: positions from an offset, features at any step, and the mask of the step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk
from QEfficient.transformers.quirks.kosmos_2_5_text_model import positions_of_step


def forward(
    self: Any,
    input_ids: torch.Tensor,
    past_key_values: Cache | None = None,
    image_embeds: torch.Tensor | None = None,
    image_embeds_position_mask: torch.Tensor | None = None,
    **inputs: object,
) -> Any:
    """As the module's, which would drop the features of a step after the first."""
    if current_step() is not None:
        embeddings = self.embed_tokens(input_ids)
        mask = create_causal_mask(self.config, embeddings, attention_mask=None, past_key_values=past_key_values)
        self._prepare_decoder_attention_mask = lambda *args: mask
        self.forward_embedding = partial(_embedded, self, image_embeds, image_embeds_position_mask)
    return type(self).forward(self, input_ids=input_ids, past_key_values=past_key_values, **inputs)


def _embedded(self: Any, rows: torch.Tensor | None, places: torch.Tensor | None, **inputs: Any) -> torch.Tensor:
    return type(self).forward_embedding(self, **{**inputs, "image_embeds": rows, "img_input_mask": places})


QUIRK = Quirk(
    methods={
        "Kosmos2TextSinusoidalPositionalEmbedding.forward": positions_of_step,
        "Kosmos2TextTransformer.forward": forward,
    }
)
