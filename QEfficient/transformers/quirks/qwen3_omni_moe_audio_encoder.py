"""Qwen3-Omni: all chunks of audio through the convolutions at once."""

from __future__ import annotations

from typing import Any

import torch

from QEfficient.transformers.patches import tensor_method_replaced
from QEfficient.transformers.quirks import Quirk


def in_one_piece(
    self: Any,
    input_features: torch.Tensor | None = None,
    feature_lens: torch.Tensor | None = None,
    **kwargs: object,
) -> Any:
    """The encoder's forward, which cuts its chunks into pieces to save memory."""
    with tensor_method_replaced("split", lambda chunks, size, dim=0: [chunks]):  # its only one
        return type(self).forward(self, input_features, feature_lens, **kwargs)


QUIRK = Quirk(methods={"Qwen3OmniMoeAudioEncoder.forward": in_one_piece})
