"""Moonshine: frames counted in whole numbers."""

from __future__ import annotations

from typing import Any

from QEfficient.transformers.quirks import Quirk


def num_frames(self: Any, input_lengths: int) -> int:
    """Frames of so many samples, after three convolutions."""
    frames = (input_lengths - 127) // 64 + 1
    frames = (frames - 7) // 3 + 1
    return (frames - 3) // 2 + 1


QUIRK = Quirk(methods={"MoonshineEncoder._get_feat_extract_output_lengths": num_frames})
