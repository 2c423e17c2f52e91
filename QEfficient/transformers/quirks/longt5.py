"""LongT5: blocks of local attention cut without asking whether there is anything to pad."""

from __future__ import annotations

from torch import Tensor, nn

from QEfficient.transformers.quirks import Quirk


def split_into_blocks(x: Tensor, block_len: int, dim: int) -> Tensor:
    """``x`` padded with zeros along ``dim`` and split there into ``[..., num_blocks, block_len, ...]``."""
    num_blocks = (x.shape[dim] + block_len - 1) // block_len
    padding = [0, 0] * (x.ndim - 1 - dim % x.ndim) + [0, num_blocks * block_len - x.shape[dim]]
    return nn.functional.pad(x, padding).unflatten(dim, (num_blocks, block_len))


QUIRK = Quirk(functions={"_split_into_blocks": split_into_blocks})
