"""Chameleon: the logits of image tokens are selected, not overwritten, and its table of tokens is a constant."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch

from QEfficient.transformers.quirks import Quirk


def without_image_tokens(self: Any, logits_to_keep: int | torch.Tensor = 0, **inputs: Any) -> SimpleNamespace:
    """Output with ``logits [B, S, V]``, the least number for tokens that stand for parts of images."""
    file = sys.modules[type(self).__module__]
    output = self.model(**inputs)
    logits = self.lm_head(vars(file)["slice_logits_to_keep"](output[0], logits_to_keep))
    image_tokens = {*self.model.vocabulary_mapping.image_tokens}
    is_image = torch.tensor([token in image_tokens for token in range(logits.shape[-1])])
    logits = torch.where(is_image, torch.finfo(logits.dtype).min, logits)
    return SimpleNamespace(logits=logits, past_key_values=output.past_key_values)


def image_features(self: Any, pixel_values: torch.Tensor, **inputs: Any) -> Any:
    """Embeddings of the tokens that stand for the parts of images."""
    output, numbers = self.vqmodel.encode(pixel_values, return_dict=True), self.vocabulary_mapping.img2bpe
    table = torch.tensor([numbers.get(number, 0) for number in range(max(numbers) + 1)])
    output.pooler_output = self.get_input_embeddings()(table[output.image_tokens].view(pixel_values.shape[0], -1))
    return output


QUIRK = Quirk(
    methods={
        "ChameleonForConditionalGeneration.forward": without_image_tokens,
        "ChameleonModel.get_image_features": image_features,
    }
)
