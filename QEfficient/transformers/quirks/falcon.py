"""Falcon with ALiBi: the bias is in the mask already, and only the branch for SDPA does not add it again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from QEfficient.transformers.quirks import Quirk


def attend_with_bias_in_the_mask(
    self: Any, hidden_states: Tensor, alibi: Tensor | None, *args: object, **kwargs: object
) -> Any:
    """``FalconAttention.forward`` with a bias of zeros beside a mask that has it."""
    bias = None if alibi is None else torch.zeros_like(alibi)
    return type(self).forward(self, hidden_states, bias, *args, **kwargs)


QUIRK = Quirk(methods={"FalconAttention.forward": attend_with_bias_in_the_mask})
