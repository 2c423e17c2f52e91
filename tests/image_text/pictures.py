"""Pictures drawn with PIL: gradients, shapes, letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SIZES = ((56, 56), (70, 40), (40, 60))
"""Width and height in pixels."""


def images(*sizes: tuple[int, int], seed: int = 0) -> list[Any]:
    """One RGB picture for each width and height; another ``seed`` draws others."""
    return [_picture(width, height, 7 * seed + number) for number, (width, height) in enumerate(sizes)]


def _picture(width: int, height: int, number: int) -> Any:
    import numpy as np
    from PIL import Image, ImageDraw

    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin((rows * (number + k + 1) + columns * (2 * k + 1)) / (12 + 5 * k)) for k in range(3)]
    picture = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse(_box(width, height, number), fill=_color(number))
    draw.rectangle(_box(width, height, number + 3), outline=_color(number + 1), width=2)
    draw.line([(0, height - 1), (width - 1, number % height)], fill=_color(number + 2), width=3)
    draw.text((2, height // 3), f"No {number}", fill="white")
    return picture


def _color(number: int) -> tuple[int, int, int]:
    return (97 * number + 40) % 256, (151 * number + 200) % 256, (53 * number + 90) % 256


def _box(width: int, height: int, number: int) -> Sequence[int]:
    left, top = (11 * number) % (width // 2), (5 * number) % (height // 2)
    return left, top, left + width // 2, top + height // 2
