"""Images and audio that show what a processor makes of one."""

from __future__ import annotations

import numpy as np


def picture(width: int, height: int) -> np.ndarray:
    """An image ``[height, width, 3]`` of uint8 that is the same each time, without areas of one colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)


def sound(num_samples: int) -> np.ndarray:
    """A tone that rises, float32 ``[num_samples]``, the same each time."""
    places = np.arange(num_samples) / max(1, num_samples)
    return (0.3 * np.sin(200 * places * (1 + places))).astype(np.float32)
