"""Tokens of several sequences as the rectangular inputs of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def pack_tokens(rows: Iterable[tuple[int, Sequence[int], int]], batch_size: int, seq_len: int) -> dict[str, np.ndarray]:
    """``input_ids`` and ``position_ids``, int64 ``[batch_size, seq_len]``; padding has token 0 and position −1.

    Args:
        rows: batch row, its tokens, and the position of the first.
        batch_size: rows of the run; those that ``rows`` leaves out idle.
        seq_len: tokens of a row; shorter ones are padded on the right.
    """
    ids = np.zeros((batch_size, seq_len), np.int64)
    positions = np.full_like(ids, -1)
    for row, tokens, start in rows:
        ids[row, : len(tokens)] = tokens
        positions[row, : len(tokens)] = np.arange(start, start + len(tokens))
    return {"input_ids": ids, "position_ids": positions}
