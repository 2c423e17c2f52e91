"""The QPC container: named segments of bytes in one file, laid out as the open runtime documents.

    header     u32 magic, u8 major, u8 minor, u16 compression, u64 size of the whole, u64 base (0 in a file)
    directory  u64 number of segments, u64 offset of the segment array
    segments   32 bytes each: u64 size, u64 static part, u64 offset of the name, u64 offset of the data
    names      NUL-terminated
    data       in the order of the segments

Little-endian; names and data begin at multiples of 8, data here at multiples of 64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from QEfficient.errors import CorruptArtifact

FILE_NAME = "programqpc.bin"
MAGIC = 0x00A1CD7C
ALIGNMENT = 64

_HEADER = struct.Struct("<IBBHQQ")
_DIRECTORY = struct.Struct("<QQ")
_SEGMENT = struct.Struct("<QQQQ")
_START = _HEADER.size + _DIRECTORY.size

Writer = Callable[[BinaryIO], None]
"""Writes a segment's bytes at the file's position."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Where the bytes of a segment are in the file."""

    start: int
    num_bytes: int


def write_container(path: Path, segments: Mapping[str, bytes | Writer]) -> None:
    """Write the segments in order, and sync them to disk."""
    names = _names(segments)
    with path.open("xb") as file:
        file.write(bytes(_aligned(max(names.values()) + len(list(segments)[-1].encode()) + 1, ALIGNMENT)))
        entries = []
        for name, content in segments.items():
            start = file.tell()
            if callable(content):
                content(file)
            else:
                file.write(content)
            num_bytes = file.tell() - start
            entries.append(_SEGMENT.pack(num_bytes, 0, names[name], start))
            file.write(bytes(-file.tell() % ALIGNMENT))
        _write_front(file, entries, names, file.tell())
        file.flush()
        os.fsync(file.fileno())


def _names(segments: Mapping[str, object]) -> dict[str, int]:
    offset = _START + _SEGMENT.size * len(segments)
    offsets = {}
    for name in segments:
        offsets[name] = offset
        offset += _aligned(len(name.encode()) + 1, 8)
    return offsets


def _write_front(file: BinaryIO, entries: list[bytes], names: Mapping[str, int], size: int) -> None:
    file.seek(0)
    file.write(_HEADER.pack(MAGIC, 0, 1, 0, size, 0))
    file.write(_DIRECTORY.pack(len(entries), _START))
    file.write(b"".join(entries))
    for name, offset in names.items():
        file.seek(offset)
        file.write(name.encode() + b"\0")


def _aligned(offset: int, alignment: int) -> int:
    return offset + -offset % alignment


def read_container(path: Path) -> dict[str, Segment]:
    """The segments of a file by name.

    Raises:
        CorruptArtifact: not a QPC, or truncated.
    """
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        front = file.read(_START)
        if len(front) < _START:
            raise CorruptArtifact(f"{path} has {len(front)} bytes; a QPC begins with {_START}")
        magic, _, _, _, size, _ = _HEADER.unpack_from(front)
        if magic != MAGIC or size > total:
            raise CorruptArtifact(
                f"{path} is not a whole QPC: expected magic {MAGIC:#010x} and {size} bytes, "
                f"got {magic:#010x} and {total}. Compile it again."
            )
        count, offset = _DIRECTORY.unpack_from(front, _HEADER.size)
        return dict(_read_segment(path, file, offset + _SEGMENT.size * index, size) for index in range(count))


def _read_segment(path: Path, file: BinaryIO, offset: int, size: int) -> tuple[str, Segment]:
    file.seek(offset)
    entry = file.read(_SEGMENT.size)
    num_bytes, _, name, start = _SEGMENT.unpack(entry) if len(entry) == _SEGMENT.size else (size, 0, size, size)
    if name >= size or start + num_bytes > size:
        raise CorruptArtifact(f"{path}: the segment at {offset} lies outside its {size} bytes. Compile it again.")
    file.seek(name)
    text = file.read(256).partition(b"\0")[0]
    return text.decode(errors="replace"), Segment(start, num_bytes)


def read_segment(path: Path, segment: Segment) -> bytes:
    """A segment's bytes."""
    with path.open("rb") as file:
        file.seek(segment.start)
        return file.read(segment.num_bytes)
