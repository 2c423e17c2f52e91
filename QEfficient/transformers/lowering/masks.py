"""Mask functions for transformers' ``AttentionMaskInterface``: they turn a model's mask rule into the
mask argument of a lowering's attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MASKED = -30000.0
"""Added to a masked score. Finite, so that a fully masked row is uniform and not NaN, and small enough that adding a
score does not overflow fp16."""


def _positions(offset: int | torch.Tensor, length: int, device: torch.device) -> torch.Tensor:
    """Absolute positions ``[B or 1, length]`` from an offset, or from positions passed as the offset."""
    if isinstance(offset, torch.Tensor) and offset.ndim == 2:
        return offset
    return (torch.arange(length, device=device) + offset)[None]


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

    Offsets may be ``[B, length]`` tensors of absolute positions; a negative key position is an empty slot.
    """
    assert mask_function is not None
    q = _positions(q_offset, q_length, device)[:, None, :, None]
    kv = _positions(kv_offset, kv_length, device)[:, None, None, :]
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    heads = torch.arange(1, device=device)[None, :, None, None]
    seen = mask_function(rows, heads, q, kv) & (kv >= 0)
    if attention_mask is not None:
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


def with_float_mask(self: Any, *args: object, attention_mask: torch.Tensor | None = None, **kwargs: object) -> Any:
    """A module's forward with its mask as floats, for modules that subtract it from one."""
    mask = None if attention_mask is None else attention_mask.float()
    return type(self).forward(self, *args, attention_mask=mask, **kwargs)
