"""Ovis 2: the embeddings of tokens around images come from the table of visual words, without a look at the prompt."""

from __future__ import annotations

from typing import Any

import torch

from QEfficient.processing.media import PartOutput
from QEfficient.transformers.quirks import Quirk


def with_indicators(
    self: Any,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    mm_encoder_outputs: Any = None,
    **inputs: Any,
) -> Any:
    """The language model's output, with features at their tokens and the last rows of the table at indicators."""
    embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
    image = (mm_encoder_outputs or {}).get("image")
    if image is not None:
        mask = self.get_placeholder_mask(input_ids, embeddings, image.pooler_output)
        embeddings = embeddings.masked_scatter(mask, image.pooler_output)
        first = self.visual_vocab_size - len(self.visual_indicator_token_ids)
        rows = self.visual_embeddings_table(torch.arange(first, self.visual_vocab_size))
        for token, row in zip(self.visual_indicator_token_ids, rows, strict=True):
            embeddings = torch.where((input_ids == token)[..., None], row, embeddings)
    output = self.language_model(inputs_embeds=embeddings, **inputs)
    return PartOutput({name: output[name] for name in output.keys()})  # noqa: SIM118


QUIRK = Quirk(methods={"Ovis2Model.forward": with_indicators})
