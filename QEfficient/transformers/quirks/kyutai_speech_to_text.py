"""Kyutai's speech to text: the sum of the embeddings of a frame's codes as the features that a token gets."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
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


def convolve(self: Any, hidden_states: torch.Tensor, padding_cache: object = None) -> torch.Tensor:
    """The module's forward over a stream that begins here: whole strides alone."""
    conv = self.conv
    (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
    before = (kernel - 1) * dilation + 1 - stride
    convolved: torch.Tensor = conv(nn.functional.pad(hidden_states, (before, 0), mode=self.pad_mode))
    return convolved


def _entries(codebook: Any) -> torch.Tensor:
    entries: torch.Tensor = codebook.embed_sum / codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
    return entries


def nearest_entry(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """``[N, D]`` to the places ``[N]`` of the nearest entries; what is the same for all entries is left out."""
    entries = _entries(self).float()
    return ((entries * entries).sum(-1) - 2 * hidden_states.float() @ entries.T).argmin(-1)


def entry(self: Any, embed_ind: torch.Tensor) -> torch.Tensor:
    """As the module's, which would keep its table after a trace."""
    return nn.functional.embedding(embed_ind, _entries(self))


QUIRK = Quirk(
    methods={
        "KyutaiSpeechToTextEmbeddings.forward": embed_text,
        "MimiConv1d.forward": convolve,
        "MimiEuclideanCodebook.quantize": nearest_entry,
        "MimiEuclideanCodebook.decode": entry,
    },
    added={"audio": get_audio_features},
)
