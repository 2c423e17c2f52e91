"""Images as callers pass them, opened with limits: a file may be anything."""

from __future__ import annotations

import base64
import io
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

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
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AssertionError),
    struct.error,
)
"""Over files whose content contradicts itself."""


def open_images(pictures: Sequence[Picture]) -> list[Image]:
    """Images in RGB, checked.

    Raises:
        OptionError: one is not an image, or of a form that is not read.
        CapacityError: one is too large, or too small to be seen.
        LifecycleError: Pillow is not installed.
    """
    return [open_image(picture, index) for index, picture in enumerate(pictures)]


def open_image(picture: Picture, index: int = 0) -> Image:
    """One image in RGB; ``index``: its place among the caller's, for messages."""
    try:
        from PIL import Image
    except ImportError as error:
        raise LifecycleError("Images need Pillow: pip install 'QEfficient[vision]'.") from error
    if isinstance(picture, Image.Image):
        with _damage(f"Image {index}"):
            return _rgb(picture, index)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise OptionError(
                f"Image {index} is an array of {picture.dtype} {list(picture.shape)}, expected uint8 "
                "[height, width, 3]."
            )
        _checked(picture.shape[1::-1], index)
        return Image.fromarray(picture)
    if isinstance(picture, bytes | bytearray):
        return _decoded(bytes(picture), f"Image {index}", index)
    if isinstance(picture, str | os.PathLike):
        return _from_text(os.fspath(picture), index)
    raise OptionError(
        f"Image {index} is a {type(picture).__name__}: give a path, the bytes of a file, an array [height, width, 3] "
        "of uint8, or an image of Pillow."
    )


def _from_text(text: str, index: int) -> Image:
    """The image of a path, or of ``data:image/png;base64,…``, whose base64 may have line breaks."""
    if text[:5].lower() != "data:":
        return _decoded(_read(text), f"Image {index} ({text:.200})", index)
    try:
        content = base64.b64decode("".join(unquote(text.partition(",")[2]).split()), validate=True)
    except ValueError as error:
        raise OptionError(f"Image {index} is a data: address whose base64 is damaged: {error}.") from error
    return _decoded(content, f"Image {index} (data:)", index)


def _read(path: str) -> bytes:
    if "://" in path:
        raise OptionError(f"{path:.200} is an address, and no image is downloaded: save it, and give its path.")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise OptionError(f"The image {path:.200} cannot be read: {said}.") from error


def _decoded(content: bytes, name: str, index: int) -> Image:
    """The image in the bytes of a file."""
    from PIL import Image, ImageOps

    with _damage(name):
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        _checked(opened.size, index)
        return _rgb(ImageOps.exif_transpose(opened), index)


def _rgb(image: Image, index: int) -> Image:
    """An image in RGB. Its size is checked before any pixel is decoded.

    Raises:
        OptionError: its pixels have no known range: Pillow would cut them at 255, and show white.
    """
    _checked(image.size, index)
    if image.mode in ("I", "F"):
        raise OptionError(
            f"Image {index} has pixels of the mode {image.mode!r}, whose range is not known: scale them to 0..255, and "
            "convert it to the mode 'L' or 'RGB'."
        )
    if image.mode.startswith("I;16"):
        return _of_16_bits(image).convert("RGB")
    return image.convert("RGB")


def _of_16_bits(image: Image) -> Image:
    """Grey values of 16 bits in 8, as Pillow decodes colours of 16 bits."""
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Report what Pillow raises over an image's content."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except QEffError:
        raise
    except UnidentifiedImageError as error:
        raise OptionError(f"{name} is not an image in {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CapacityError(f"{name} is too large: {error} At most {MAX_PIXELS} pixels are decoded.") from error
    except _PILLOW_ERRORS as error:
        raise OptionError(f"{name} is damaged: {str(error) or type(error).__name__}.") from error


def _checked(size: tuple[int, ...], index: int) -> None:
    """
    Raises:
        CapacityError: an image of this width and height is too large or too small.
    """
    width, height = size
    said = f"Image {index} has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise CapacityError(f"{said}, more than {MAX_PIXELS}: scale it down.")
    if min(width, height) < MIN_SIDE:
        raise CapacityError(f"{said}: at least {MIN_SIDE} on each side are needed to see something.")
    if max(width, height) > _MAX_RATIO * min(width, height):
        raise CapacityError(f"{said}: one side is more than {_MAX_RATIO} times the other. Crop it.")
