"""Kyutai's speech to text: the sum of the embeddings of a frame's codes as the features that a token gets."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from QEfficient.transformers.quirks import Quirk


def get_audio_features(self: Any, input_values: torch.Tensor) -> BaseModelOutputWithPooling:
    """``[B, 1, T]`` to rows ``[B, 1 + frames, D]``: those of the first token, and of one for each whole frame."""
    codes = self.codec_model.encode(input_values).audio_codes.transpose(1, 2)
    first = codes.new_full((codes.shape[0], 1, codes.shape[2]), self.config.audio_bos_token_id)
    codes = torch.cat([first, codes], 1)
    embeddings = self.model.embed_tokens
    table = embeddings.embed_tokens
    ids = torch.where(codes == table.padding_idx, codes, codes + embeddings.audio_tokens_offsets[1:])
    return BaseModelOutputWithPooling(pooler_output=table(ids).sum(2))


def embed_text(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """``[B, S]`` to ``[B, S, D]``, without what the codes add."""
    embedded: torch.Tensor = self.embed_tokens(input_ids)
    return embedded


QUIRK = Quirk(methods={"KyutaiSpeechToTextEmbeddings.forward": embed_text}, added={"audio": get_audio_features})
