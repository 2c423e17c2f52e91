"""Quirks of text-to-text models, see :mod:`QEfficient.transformers.quirks`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.prophetnet.modeling_prophetnet import ProphetNetDecoderModelOutput, compute_relative_buckets

from QEfficient.transformers.lowering.masks import MASKED
from QEfficient.transformers.lowering.step import current_step


def causal_decoder(self: Any, *args: Any, decoder_causal_mask: Tensor | None = None, **kwargs: Any) -> Any:
    """The decoder's own forward, with the mask that it leaves out where there is a cache."""
    step, cache = current_step(), kwargs.get("past_key_values")
    if step is not None and cache is not None:
        key_positions = cache.get_mask_sizes(step.position_ids.shape[1], 0)[1]
        seen = key_positions[:, None, None, :] <= step.position_ids[:, None, :, None]
        decoder_causal_mask = torch.where(seen, 0.0, MASKED)
    return type(self).forward(self, *args, decoder_causal_mask=decoder_causal_mask, **kwargs)


def local_attention(self: Any, *args: Any, is_global_attn: Any = None, **kwargs: Any) -> Any:
    """The module's own forward for texts none of whose tokens sees all others."""
    return type(self).forward(self, *args, is_global_attn=False, **kwargs)


def padded_to_window(
    self: Any, input_ids: Tensor, attention_mask: Tensor, inputs_embeds: Tensor, pad_token_id: int
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Tokens, mask and embeddings up to whole windows. Says that there is no padding: whoever called the encoder takes
    the text's states from what comes out, since the original takes none where nothing was padded."""
    window = max(self.config.attention_window)
    num_added = (input_ids.shape[1] + window - 1) // window * window - input_ids.shape[1]
    added = input_ids.new_full((input_ids.shape[0], num_added), pad_token_id)
    embeds = torch.cat([inputs_embeds, self.embed_tokens(added)], 1)
    return 0, torch.cat([input_ids, added], 1), nn.functional.pad(attention_mask, (0, num_added)), embeds


def with_float_mask(self: Any, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
    """The module's own forward, which subtracts its mask from a number."""
    mask = None if attention_mask is None else attention_mask.float()
    return type(self).forward(self, *args, attention_mask=mask, **kwargs)


def ngram_decoder(
    self: Any,
    input_ids: Tensor,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> Any:
    """ProphetNet's decoder over a step: a stream of tokens, and for each n-gram one that predicts from them."""
    step = current_step()
    if step is None:
        own = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
        # With a cache its own takes one token at a time; the cache is filled either way.
        own |= {"past_key_values": past_key_values, "use_cache": False}
        return type(self).forward(self, input_ids, **own, **{k: v for k, v in kwargs.items() if k not in own})
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
    """What is added to scores over the encoder's tokens, ``[B, H, 1, L]``."""
    return None if mask is None else ((1.0 - mask[:, None, None, :].float()) * MASKED).repeat(1, num_heads, 1, 1)


def ngram_biases(self: Any, hidden_states: Tensor, weights: Tensor, position_ids: Tensor, buckets: Tensor) -> Tensor:
    """``[B, N, H, S, K]`` of ``hidden_states [B, S, N, D]`` and ``buckets [B, S, K]``.

    The original puts the n-grams before the rows in one of the two, so that it holds for one row alone.
    """
    rows, count = hidden_states.shape[:2]
    biases = self.relative_pos_embeddings(hidden_states)
    biases = biases.view(rows, count, self.ngram, self.num_buckets, self.num_attn_heads).permute(0, 2, 4, 1, 3)
    index = buckets[:, None, None].long().expand(-1, self.ngram, self.num_attn_heads, -1, -1)
    return biases.gather(4, index)


def _ngram_relations(self: Any, position_ids: Tensor, cache: Any) -> dict[str, Tensor]:
    """Masks and buckets of distances, ``[B, S, L]`` of tokens to slots and ``[B, S, L + S]`` of predictions to slots
    and to themselves."""
    queries, keys = position_ids[:, :, None], cache.get_mask_sizes(position_ids.shape[1], 0)[1][:, None]
    apart = queries - position_ids[:, None]
    buckets = partial(compute_relative_buckets, self.num_buckets, self.relative_max_distance)
    mask = torch.where(keys <= queries, 0.0, MASKED)
    own = torch.where(apart == 0, 0.0, MASKED)
    return {
        "attention_mask": mask[:, None],
        "extended_predict_attention_mask": torch.cat([mask, own], 2)[:, None, None],
        "main_relative_position_buckets": buckets(keys - queries),
        "predict_relative_position_buckets": buckets(torch.cat([keys - queries - 1, -apart], 2)),
    }


def _split_into_blocks(x: Tensor, block_len: int, dim: int) -> Tensor:
    """``x`` padded with zeros and cut along ``dim`` into blocks. The original asks whether there is anything to pad,
    which holds for one length, and its sizes are more than tracing can follow."""
    num_blocks = (x.shape[dim] + block_len - 1) // block_len
    padding = [0, 0] * (x.ndim - 1 - dim % x.ndim) + [0, num_blocks * block_len - x.shape[dim]]
    return nn.functional.pad(x, padding).unflatten(dim, (num_blocks, block_len))


FUNCTIONS: dict[str, Any] = {"_split_into_blocks": _split_into_blocks}
"""What stands for functions of modeling files, by their names."""
