"""Qwen 4: selects keys and hashes n-grams without loops over data, in integers that any target has.

Shape legend: B rows, S tokens, L keys, N blocks of keys, H heads of the indexer, D size of its keys.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.recurrences import (
    columns_with_past,
)
from QEfficient.transformers.lowering.sparse import best
from QEfficient.transformers.lowering.step import current_step
from QEfficient.transformers.quirks import Quirk

_ID_DIGIT = 512
"""Base of token ids in the state: two digits, exact in fp16."""


_DIGIT, _NUM_DIGITS = 64, 11
"""Base and number of digits of 63-bit integers: a digit times an id, or times a table's size, fits in 31 bits."""


def block_indexer(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor,
    past_key_values: Cache,
) -> Tensor:
    """Select the best whole blocks of keys before each token, and all keys after the last whole block.

    Returns:
        ``[B, 1, S, L]``: whether a token sees a key; keys after the token are left to the causal mask.
    """
    step = current_step()
    if step is None:
        return type(self).forward(self, hidden_states, position_embeddings, attention_mask, past_key_values)
    shape = (*hidden_states.shape[:2], -1, self.index_head_dim)
    sizes = [count * self.index_head_dim for count in (self.index_n_heads, self.index_kv_heads)]
    query, key = self.index_qk_proj(hidden_states).split(sizes, dim=-1)
    keys = past_key_values.update_indexer(key, self.layer_idx)
    num_keys, ratio = keys.shape[1], self.compress_ratio
    # Positions of all slots, then of the step.
    of_slots, of_step = zip(*((part[:, :num_keys], part[:, num_keys:]) for part in position_embeddings), strict=True)
    query = _rotated(self.q_layernorm(query.reshape(shape)), *(part[:, :, None] for part in of_step))
    num_blocks = num_keys // ratio
    blocks = keys[:, : num_blocks * ratio].reshape(keys.shape[0], num_blocks, ratio, -1).mean(dim=2)
    starts = (part[:, : num_blocks * ratio].reshape(part.shape[0], num_blocks, ratio, -1)[:, :, 0] for part in of_slots)
    blocks = _rotated(self.k_layernorm(blocks), *starts)
    scores = torch.relu(query.transpose(1, 2) @ blocks[:, None].transpose(2, 3)).sum(1) / math.sqrt(self.index_head_dim)
    num_whole = torch.div(step.position_ids + 1, ratio, rounding_mode="floor")[..., None]
    picked = best(torch.where(torch.arange(num_blocks) < num_whole, scores, -1.0), self.block_topk)
    picked = functional.pad(picked.repeat_interleave(ratio, dim=2), (0, num_keys - num_blocks * ratio))
    places = torch.div(torch.arange(num_keys), ratio, rounding_mode="floor")
    return (torch.where(places < num_whole, picked, 1.0) > 0)[:, None]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    size = cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    half = torch.cat([-turned[..., size // 2 :], turned[..., : size // 2]], dim=-1)
    return torch.cat([turned * cos + half * sin, kept], dim=-1)


def ngram_embedding(self: Any, input_ids: Tensor, past_key_values: Cache) -> Tensor:
    """Embedding of the last n-grams, ``[B, S, size]``.

    The products of ids with 63-bit multipliers, joined by exclusive or, select a row of each table.
    """
    ids = input_ids + 1
    digits = torch.stack([ids % _ID_DIGIT, torch.div(ids, _ID_DIGIT, rounding_mode="floor")], dim=1).float()
    digits = columns_with_past(past_key_values, self.layer_idx, digits, self.context_len, state_idx=2)
    ids = (digits[:, 0] + _ID_DIGIT * digits[:, 1]).long() - 1
    ids = torch.where(ids < 0, self.eos_token_id, ids)  # before the first token
    num_tokens, multipliers = input_ids.shape[1], _multipliers(self)
    before = ids[:, self.context_len :]
    mixed, rows = _product(before, multipliers[0]), []
    for back in range(1, self.ngram_size):
        earlier = ids[:, self.context_len - back : self.context_len - back + num_tokens]
        # No n-gram reaches across an end token.
        before = earlier if back == 1 else torch.where(before == self.eos_token_id, self.eos_token_id, earlier)
        mixed = torch.bitwise_xor(mixed, _product(before, multipliers[back]))
        heads = slice((back - 1) * self.heads_per_ngram, back * self.heads_per_ngram)
        rows.append(_remainder(mixed, self.head_vocab_sizes[heads]) + torch.tensor(self.head_offsets[heads]))
    return self.ngram_embedding(torch.cat(rows, dim=-1)).flatten(-2)


def _multipliers(self: Any) -> list[int]:
    """The values of the buffer ``layer_multipliers``, computed anew: a traced graph cannot read them."""
    constants = vars(sys.modules[type(self).__module__])
    half = max(1, (2**63 - 1) // max(self.unigram_vocab_size, 1) // 2)
    seed = self.seed + constants["_PRIME_1"] * self.ple_layer_index
    seeds = [(seed + constants["_SPLITMIX_GAMMA"] * (place + 1)) % 2**64 for place in range(self.ngram_size)]
    return [2 * (constants["_splitmix64"](value) % half) + 1 for value in seeds]


def _product(ids: Tensor, multiplier: int) -> Tensor:
    """Digits ``[B, S, 11]``, lowest first, of ``ids [B, S]`` times a 63-bit ``multiplier``."""
    carry, digits = torch.zeros_like(ids), []
    for place in range(_NUM_DIGITS):
        total = ids * (multiplier // _DIGIT**place % _DIGIT) + carry
        digits.append(total % _DIGIT)
        carry = torch.div(total, _DIGIT, rounding_mode="floor")
    return torch.stack(digits, dim=-1)


def _remainder(digits: Tensor, divisors: list[int]) -> Tensor:
    """Remainders ``[B, S, divisors]`` of the numbers with these digits."""
    rest = torch.zeros_like(digits[..., :1])
    for place in reversed(range(_NUM_DIGITS)):
        rest = torch.remainder(rest * _DIGIT + digits[..., place : place + 1], torch.tensor(divisors))
    return rest


QUIRK = Quirk(
    methods={
        "Qwen4ExpTextQSAIndexer.forward": block_indexer,
        "Qwen4ExpTextNGramEmbedding.forward": ngram_embedding,
    }
)
