"""Images as callers pass them, opened with limits: a file may be anything."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import CapacityError, LifecycleError, OptionError, QEffError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = Any
"""A path, the bytes of a file, an array ``[height, width, 3]`` of uint8, or an image of Pillow."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""File formats that are decoded; others have decoders that are rarely used and seldom tested."""
MAX_PIXELS = 64 << 20
MIN_SIDE = 2
_MAX_RATIO = 200


def open_images(pictures: Sequence[Picture]) -> list[Image]:
    """Images in RGB, checked.

    Raises:
        OptionError: one is no image, or of a form that is not read.
        CapacityError: one is too large, or too small to be seen.
        LifecycleError: Pillow is not installed.
    """
    return [_checked(open_image(picture, index), index) for index, picture in enumerate(pictures)]


def open_image(picture: Picture, index: int = 0) -> Image:
    """One image in RGB; ``index``: its place among the caller's, for messages."""
    try:
        from PIL import Image
    except ImportError as error:
        raise LifecycleError("Images need Pillow: pip install 'QEfficient[vision]'.") from error
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise OptionError(
                f"Image {index} is an array of {picture.dtype} {list(picture.shape)}, expected uint8 "
                "[height, width, 3]."
            )
        return Image.fromarray(picture)
    if isinstance(picture, bytes | bytearray):
        return _decoded(bytes(picture), f"Image {index}", index)
    if isinstance(picture, str | os.PathLike):
        return _decoded(_read(os.fspath(picture)), f"Image {index} ({picture})", index)
    raise OptionError(
        f"Image {index} is a {type(picture).__name__}: give a path, the bytes of a file, an array [height, width, 3] "
        "of uint8, or an image of Pillow."
    )


def _read(path: str) -> bytes:
    if "://" in path:
        raise OptionError(f"{path} is an address, and no image is downloaded: save it, and give its path.")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise OptionError(f"The image {path} cannot be read: {error}.") from error


def _decoded(content: bytes, name: str, index: int) -> Image:
    """The image in the bytes of a file. Its size is checked before any pixel is decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
            _checked(opened, index)
            return opened.convert("RGB")
    except QEffError:
        raise
    except UnidentifiedImageError as error:
        raise OptionError(f"{name} is no image in {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CapacityError(f"{name} is too large: {error} At most {MAX_PIXELS} pixels are decoded.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise OptionError(f"{name} is damaged: {error}.") from error


def _checked(image: Image, index: int) -> Image:
    """
    Raises:
        CapacityError: it is too large or too small.
    """
    width, height = image.size
    size = f"Image {index} has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise CapacityError(f"{size}, more than {MAX_PIXELS}: scale it down.")
    if min(width, height) < MIN_SIDE:
        raise CapacityError(f"{size}: at least {MIN_SIDE} on each side are needed to see something.")
    if max(width, height) > _MAX_RATIO * min(width, height):
        raise CapacityError(f"{size}: one side is more than {_MAX_RATIO} times the other. Crop it.")
    return image
