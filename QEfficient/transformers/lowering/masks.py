"""Mask functions for transformers' ``AttentionMaskInterface``: they turn a model's mask rule into the
mask argument of a lowering's attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.lowering.step import current_step

MASKED = -30000.0
"""Added to a masked score. Finite, so that a fully masked row is uniform and not NaN, and small enough that adding a
score does not overflow fp16."""


def _positions(offset: int | torch.Tensor, length: int, device: torch.device) -> torch.Tensor:
    """Absolute positions ``[B or 1, length]`` from an offset, or from positions passed as the offset."""
    if _are_positions(offset):
        return offset
    return (torch.arange(length, device=device) + offset)[None]


def _are_positions(offset: int | torch.Tensor) -> TypeGuard[torch.Tensor]:
    return isinstance(offset, torch.Tensor) and offset.ndim == 2


def additive_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int | torch.Tensor = 0,
    mask_function: Callable[..., torch.Tensor] | None = None,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **kwargs: object,
) -> torch.Tensor:
    """A float mask ``[B, 1, q_length, kv_length]``: 0 where the query sees the key, ``MASKED`` elsewhere.

    Offsets may be ``[B, length]`` tensors of absolute positions; a negative key position is an empty slot. Where keys
    have them, ``attention_mask`` says nothing more: it is the ones that a model makes for the tokens of a step.
    """
    assert mask_function is not None
    q = _positions(q_offset, q_length, device)[:, None, :, None]
    kv = _positions(kv_offset, kv_length, device)[:, None, None, :]
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    heads = torch.arange(1, device=device)[None, :, None, None]
    seen = mask_function(rows, heads, q, kv) & (kv >= 0)
    if attention_mask is not None and not _are_positions(kv_offset):
        seen = seen & attention_mask[:, None, None, :].to(torch.bool)
    seen = seen.expand(batch_size, 1, q_length, kv_length)
    return torch.where(seen, 0.0, MASKED).to(dtype)


def no_mask(*args: object, **kwargs: object) -> None:
    """The ``paged`` lowering's attention is causal by itself."""


def _no_padding(block_sequence_ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    return block_sequence_ids


def _no_blocks(block_sequence_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A mask rule that hides all keys: positions are never negative."""
    return lambda batch_idx, head_idx, q_idx, kv_idx: (q_idx < 0) & (kv_idx < 0)


NO_BLOCKS: dict[str, Callable[..., Any]] = {
    "maybe_pad_block_sequence_ids": _no_padding,
    "blockwise_overlay": _no_blocks,
}
"""Replacements of transformers' functions for blocks with bidirectional attention, as in images: text has none."""


def _blocks_of_step(block_sequence_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A mask rule that shows the tokens of a block to each other; a step has all tokens of its blocks.

    Args:
        block_sequence_ids: ``[B, S]``, the block of each token, -1 for none.
    """
    step = current_step()
    assert step is not None
    first, count = step.first_position[:, 0], block_sequence_ids.shape[1]
    ids = torch.where(step.is_token, block_sequence_ids, -1)  # padding is in no block, whatever its type

    def block(batch_idx: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        places = positions - first[batch_idx]
        is_inside = (places >= 0) & (places < count)
        return torch.where(is_inside, ids[batch_idx, places.clamp(min=0, max=count - 1)], -1)

    def rule(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
        query, key = block(batch_idx, q_idx), block(batch_idx, kv_idx)
        return (query == key) & (query >= 0)

    return rule


BLOCKS_OF_STEP: dict[str, Callable[..., Any]] = {**NO_BLOCKS, "blockwise_overlay": _blocks_of_step}
"""Replacements where a step may have such blocks, each of them whole."""


def _refused_blocks(block_sequence_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    raise UnsupportedModel("PagedAttention is causal, and tokens of an image attend to each other in both directions")


REFUSED_BLOCKS: dict[str, Callable[..., Any]] = {**NO_BLOCKS, "blockwise_overlay": _refused_blocks}
"""Replacements where the attention has no blocks."""


def with_float_mask(self: Any, *args: object, attention_mask: torch.Tensor | None = None, **kwargs: object) -> Any:
    """A module's forward with its mask as floats, for modules that subtract it from one."""
    mask = None if attention_mask is None else attention_mask.float()
    return type(self).forward(self, *args, attention_mask=mask, **kwargs)
