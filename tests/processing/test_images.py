"""Images from callers: what is none, too small, too large or damaged is refused, before anything is decoded."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from QEfficient.errors import CapacityError, OptionError
from QEfficient.processing.images import open_images


def png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, whose data is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def encoded(kind: str, width: int = 8, height: int = 6) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_files_of_usual_formats_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(kind))
    first, second, third = open_images([path, str(path), encoded(kind)])
    assert first.size == second.size == third.size == (8, 6)
    assert {first.mode, second.mode, third.mode} == {"RGB"}


def test_arrays_and_images_of_pillow_are_taken() -> None:
    array = np.zeros((6, 8, 3), np.uint8)
    assert [image.size for image in open_images([array, Image.new("RGBA", (8, 6))])] == [(8, 6), (8, 6)]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"not an image at all", OptionError, "Image 0 is not an image in PNG, JPEG"),
        (b"", OptionError, "Image 0 is not an image in PNG, JPEG"),
        (encoded("TIFF"), OptionError, "Image 0 is not an image in PNG, JPEG"),
        (encoded("PNG")[:-30], OptionError, "Image 0 is damaged"),
        (encoded("JPEG")[:200], OptionError, "Image 0 is (damaged|not an image)"),
        (encoded("PNG", 1, 1), CapacityError, "Image 0 has 1 x 1 pixels: at least 2"),
        (png(30_000, 30_000), CapacityError, "too large|more than"),
        (png(8, 60_000), CapacityError, "one side is more than 200 times the other"),
    ],
    ids=["text", "nothing", "TIFF", "cut PNG", "cut JPEG", "1x1", "bomb", "strip"],
)
def test_what_is_no_image_is_refused(content: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_images([content])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("https://example.com/cat.png", "no image is downloaded"),
        ("/no/such/file.png", "cannot be read"),
        (np.zeros((6, 8), np.uint8), r"array of uint8 \[6, 8\], expected uint8"),
        (np.zeros((6, 8, 3), np.float32), "array of float32"),
        (3, "is a int: give a path"),
    ],
)
def test_what_is_no_picture_is_refused(picture: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_images([picture])


def test_a_photo_is_turned_as_its_file_says(tmp_path: Path) -> None:
    """As transformers' load_image does; an image of Pillow stays as it is."""
    picture, path = Image.new("RGB", (8, 6)), tmp_path / "photo.jpg"
    tags = Image.Exif()
    tags[0x0112] = 6
    picture.save(path, exif=tags)
    assert [image.size for image in open_images([path, path.read_bytes(), picture])] == [(6, 8), (6, 8), (8, 6)]


def test_an_image_may_be_a_data_address() -> None:
    address = "data:image/png;base64," + base64.b64encode(encoded("PNG")).decode()
    (image,) = open_images([address])
    assert image.size == (8, 6)
    lines = address[:40] + "\n" + address[40:]
    for same in (lines, address.replace("data", "DATA"), address.replace("+", "%2B").replace("/", "%2F")):
        assert open_images([same])[0].tobytes() == image.tobytes()
    with pytest.raises(OptionError, match="base64 is damaged"):
        open_images(["data:image/png;base64,***"])


def test_content_in_place_of_a_path_is_not_repeated_whole() -> None:
    with pytest.raises(OptionError, match="cannot be read") as error:
        open_images([base64.b64encode(bytes(100_000)).decode()])
    assert len(str(error.value)) < 400


def test_greys_of_16_bits_become_those_of_8() -> None:
    """Pillow's own conversion cuts them at 255, which shows white."""
    greys = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
    file = io.BytesIO()
    Image.fromarray(greys).save(file, "PNG")
    for picture in (file.getvalue(), Image.fromarray(greys)):
        assert np.array_equal(np.asarray(open_images([picture])[0])[..., 0], greys >> 8)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_pillow_without_a_range_is_refused(dtype: type) -> None:
    with pytest.raises(OptionError, match="Image 1 has pixels of the mode '[IF]', whose range is not known"):
        open_images([Image.new("L", (8, 6)), Image.fromarray(np.ones((6, 8), dtype))])


def test_a_damaged_file_that_pillow_opened_is_refused(tmp_path: Path) -> None:
    """Pillow reads pixels when they are used: here."""
    (tmp_path / "cut.png").write_bytes(encoded("PNG")[:-30])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(OptionError, match="Image 0 is damaged"):
        open_images([cut])
    with pytest.raises(OptionError, match="Image 0 is damaged"):
        open_images([cut])


def test_tags_of_a_photo_that_contradict_themselves_are_a_damage() -> None:
    """A width that is no whole number, beside an orientation: Pillow packs the tags again as it turns the image."""
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    tags = b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIf", 0x0100, 11, 1, 1.5) + orientation + bytes(4)
    content = encoded("JPEG")
    marker = b"\xff\xe1" + struct.pack(">H", len(tags) + 8) + b"Exif\0\0" + tags
    with pytest.raises(OptionError, match="Image 0 is damaged"):
        open_images([content[:2] + marker + content[2:]])


def test_a_large_image_of_pillow_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(CapacityError, match="9000 x 9000"):
        open_images([Image.new("1", (9000, 9000))])


def test_an_array_that_is_too_large_is_not_copied() -> None:
    with pytest.raises(CapacityError, match="30000 x 30000"):
        open_images([np.broadcast_to(np.uint8(0), (30000, 30000, 3))])
