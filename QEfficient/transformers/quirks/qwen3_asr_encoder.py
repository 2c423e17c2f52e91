"""Qwen3-ASR: the host says which places of its chunks hold audio, as it does for the encoders of Qwen's Omni models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from QEfficient.transformers.patches import tensor_method_replaced
from QEfficient.transformers.quirks import Quirk


def at_valid_places(
    self: Any,
    input_features: torch.Tensor,
    input_features_mask: torch.Tensor,
    valid_indices: torch.Tensor | None = None,
    **kwargs: object,
) -> Any:
    """The encoder's forward, whose only ``nonzero`` is for ``valid_indices [V]``."""
    if valid_indices is None:
        return type(self).forward(self, input_features, input_features_mask, **kwargs)
    with tensor_method_replaced("nonzero", lambda mask: valid_indices[:, None]):
        return type(self).forward(self, input_features, input_features_mask, **kwargs)


def _valid_indices(module: Any, arguments: Mapping[str, Any]) -> torch.Tensor:
    """Places ``[V]`` of all chunks' rows that hold audio."""
    chunk_len = 2 * module.n_window
    lengths = arguments["input_features_mask"].reshape(-1, chunk_len).sum(-1)
    num_places, num_valid = (module._post_cnn_length(each) for each in (torch.tensor([chunk_len]), lengths))
    return (torch.arange(int(num_places)) < num_valid[:, None]).flatten().nonzero().squeeze(-1)


QUIRK = Quirk(
    methods={"Qwen3ASREncoder.forward": at_valid_places},
    arguments={"Qwen3ASREncoder": {"valid_indices": _valid_indices}},
)
