"""ProphetNet: the decoder over a step, with masks and distances from absolute positions."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.models.prophetnet.modeling_prophetnet import ProphetNetDecoderModelOutput, compute_relative_buckets

from QEfficient.transformers.lowering.masks import MASKED, with_float_mask
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk


def ngram_decoder(
    self: Any,
    input_ids: Tensor,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    **kwargs: object,
) -> Any:
    """The decoder over a step ``[B, S]``: the main stream of tokens, then one predicting stream per n-gram."""
    step = current_step()
    if step is None:
        inputs = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
        # With use_cache the original takes one token at a time; it fills the cache either way.
        inputs |= {"past_key_values": past_key_values, "use_cache": False}
        return type(self).forward(self, input_ids, **inputs, **{k: v for k, v in kwargs.items() if k not in inputs})
    places = step.position_ids.clamp(min=0) + self.position_embeddings.padding_idx + 1
    last = self.position_embeddings.max_length - 1
    ahead = self.position_embeddings._forward((places + 1).clamp(max=last))
    streams = [self.ngram_embeddings.weight[number - 1] + ahead for number in range(self.ngram)]
    main = self.word_embeddings(input_ids) + self.position_embeddings._forward(places.clamp(max=last))
    hidden = self.embeddings_layer_norm(torch.cat([main, *streams], 1))
    extra = {
        "encoder_attn_mask": _unseen(encoder_attention_mask, self.config.num_decoder_attention_heads),
        "past_key_values": past_key_values,
        **_ngram_relations(self, step.position_ids, past_key_values),
    }
    for layer in self.layers:
        hidden = layer(hidden, encoder_hidden_states=encoder_hidden_states, **extra)[0]
    count = input_ids.shape[1]
    return ProphetNetDecoderModelOutput(
        last_hidden_state=hidden[:, :count], last_hidden_state_ngram=hidden[:, count:], past_key_values=past_key_values
    )


def _unseen(mask: Tensor | None, num_heads: int) -> Tensor | None:
    """Additive mask of scores over the encoder's tokens, ``[B, H, 1, L]``."""
    return None if mask is None else ((1.0 - mask[:, None, None, :].float()) * MASKED).repeat(1, num_heads, 1, 1)


def ngram_biases(self: Any, hidden_states: Tensor, weights: Tensor, position_ids: Tensor, buckets: Tensor) -> Tensor:
    """Biases ``[B, N, H, S, K]`` from ``hidden_states [B, S, N, D]`` and ``buckets [B, S, K]``.

    The original puts n-grams before rows in one of the two, which is right for one row only.
    """
    rows, count = hidden_states.shape[:2]
    biases = self.relative_pos_embeddings(hidden_states)
    biases = biases.view(rows, count, self.ngram, self.num_buckets, self.num_attn_heads).permute(0, 2, 4, 1, 3)
    index = buckets[:, None, None].long().expand(-1, self.ngram, self.num_attn_heads, -1, -1)
    return biases.gather(4, index)


def _ngram_relations(self: Any, position_ids: Tensor, cache: Cache) -> dict[str, Tensor]:
    """Masks and distance buckets: ``[B, S, L]`` of tokens to slots, ``[B, S, L + S]`` of predictions to slots and to
    themselves."""
    queries, keys = position_ids[:, :, None], cache.get_mask_sizes(position_ids.shape[1], 0)[1][:, None]
    apart = queries - position_ids[:, None]
    buckets = partial(compute_relative_buckets, self.num_buckets, self.relative_max_distance)
    mask = torch.where(keys <= queries, 0.0, MASKED)
    itself = torch.where(apart == 0, 0.0, MASKED)
    return {
        "attention_mask": mask[:, None],
        "extended_predict_attention_mask": torch.cat([mask, itself], 2)[:, None, None],
        "main_relative_position_buckets": buckets(keys - queries),
        "predict_relative_position_buckets": buckets(torch.cat([keys - queries - 1, -apart], 2)),
    }


QUIRK = Quirk(
    methods={
        "ProphetNetEncoder.forward": with_float_mask,
        "ProphetNetDecoder.forward": ngram_decoder,
        "ProphetNetNgramSelfAttention.get_predict_relative_pos_embeddings": ngram_biases,
    }
)
