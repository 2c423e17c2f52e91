"""The KV blocks of a session that pages, and which of them are free. Handles counts only, no tensors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from QEfficient.errors import CapacityError


class BlockPool:
    """A fixed number of blocks of ``block_len`` tokens each."""

    def __init__(self, num_blocks: int, block_len: int):
        self.num_blocks = num_blocks
        self.block_len = block_len
        self._free: list[int] = []
        self.reset(())

    @property
    def num_free(self) -> int:
        """Blocks that no sequence uses."""
        return len(self._free)

    def count(self, num_tokens: int) -> int:
        """Blocks for ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_len)

    def allocate(self, count: int) -> Sequence[int]:
        """Take ``count`` blocks, the most recently freed first.

        Raises:
            CapacityError: fewer are free.
        """
        if count > self.num_free:
            raise CapacityError(
                f"{count} KV blocks of {self.block_len} tokens are needed, {self.num_free} of {self.num_blocks} are "
                "free: wait until a request ends, or open the model with more."
            )
        begin = self.num_free - count
        taken = array("i", self._free[begin:][::-1])  # sessions read it as int32 without a copy
        del self._free[begin:]
        return taken

    def free(self, block_ids: Sequence[int]) -> None:
        """Free blocks."""
        self._free += block_ids[::-1]

    def reset(self, used: Iterable[int]) -> None:
        """Free all blocks except those in ``used``."""
        self._free = sorted({*range(self.num_blocks)} - {*used}, reverse=True)
