"""Audio from files and arrays: one channel of float32 samples at the rate of a model.

WAV files of whole numbers need nothing; other formats are read by soundfile. What a file's header says is checked
before anything of it is decoded.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.errors import CapacityError, OptionError

AudioInput = str | os.PathLike[str] | np.ndarray | Sequence[float]
"""Audio: a file, or samples of one channel between -1 and 1, at the model's rate."""
AUDIO_EXTRA = 'pip install "qefficient[audio]"'
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
"""Those that soundfile may read here; it knows others, whose decoders are little tested."""
_HEADER_BYTES = 4096
_HEADERS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3": "MP3"}


_MAX_SAMPLE = 32.0
"""Samples beyond 1 are clipped at worst; beyond this they are whole numbers that were not scaled."""


def load_audio(source: AudioInput, sampling_rate: int, max_len: int, name: str) -> np.ndarray:
    """Samples ``[T]``, float32; the channels of a file are averaged.

    Args:
        source: a file or samples.
        sampling_rate: the model's, in Hz; samples must have it.
        max_len: samples that are read at most.
        name: of the audio, for messages: "Audio 0".

    Raises:
        OptionError: there is no such file, it is not audio or has another rate, or the array is none of samples.
        CapacityError: it is empty or longer than ``max_len``.
    """
    if isinstance(source, str | os.PathLike):
        if isinstance(source, str) and "://" in source:
            raise OptionError(f"{source} is an address, and no audio is downloaded: save it, and give its path.")
        path = Path(source)
        samples = _from_file(path, sampling_rate, max_len, f"{name} ({path})")
    else:
        samples = as_samples(source, name)
    if not len(samples):
        raise CapacityError(f"{name} is empty: it has no sample.")
    if len(samples) > max_len:
        raise _too_long(name, len(samples), sampling_rate, max_len)
    return samples


MIN_SECONDS = 0.01
"""Of audio that extractors fill up: the usual distance of two frames."""


def load_heard_audio(source: AudioInput, sampling_rate: int, max_len: int, name: str) -> np.ndarray:
    """:func:`load_audio` for models whose extractor fills audio up, so that they would answer any.

    Raises:
        CapacityError: it is too short to hear anything.
    """
    samples = load_audio(source, sampling_rate, max_len, name)
    shortest = int(MIN_SECONDS * sampling_rate)
    if len(samples) < shortest:
        raise CapacityError(
            f"{name} has {len(samples)} sample(s), too short to hear anything: expected at least {shortest} "
            f"({1000 * MIN_SECONDS:.0f} ms)."
        )
    return samples


def as_samples(values: object, name: str) -> np.ndarray:
    """An array or a list of numbers as float32 ``[T]``.

    Raises:
        OptionError: it is none of one axis, or a sample is no number.
    """
    samples = as_array(values, name)
    if samples.ndim != 1:
        raise OptionError(
            f"{name} has the shape {list(samples.shape)}, expected samples of one channel [T]. Average the channels."
        )
    if len(samples) and (largest := float(np.abs(samples).max())) > _MAX_SAMPLE:
        raise OptionError(
            f"{name} has samples up to {largest:.6g}, expected floats from -1 to 1. Divide those of 16 bits by 32768."
        )
    return samples


def as_array(values: object, name: str) -> np.ndarray:
    """Finite float32 values.

    Raises:
        OptionError: they are none.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(f"{name} is not an array of numbers: {error}") from error
    if array.dtype.kind != "f":
        raise OptionError(
            f"{name} has values of the type {array.dtype}, expected floats from -1 to 1. Divide whole numbers by the "
            "greatest of their type."
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise OptionError(f"{name} has values that are no numbers (NaN or infinity).")
    return array


def _too_long(name: str, length: int, sampling_rate: int, max_len: int) -> CapacityError:
    return CapacityError(
        f"{name} has {length} samples ({length / sampling_rate:.1f} s) and at most {max_len} "
        f"({max_len / sampling_rate:.1f} s) are read. Cut it, or compile for longer audio; nothing is cut silently."
    )


def _from_file(path: Path, sampling_rate: int, max_len: int, name: str) -> np.ndarray:
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except (OSError, ValueError) as error:
        raise OptionError(f"{name} cannot be read: {error}") from error
    kind = _kind(header)
    if kind is None:
        raise OptionError(
            f"{name} is not an audio file: its header is none of {', '.join(sorted({*_HEADERS.values()}))}."
        )
    if kind == "WAV" and len(header) < _HEADER_BYTES and b"data" not in header:
        raise OptionError(f"{name} is cut off in its header: copy or convert it again.")
    is_plain = kind == "WAV" and _encoding(header) == (1, 0)

    def check(rate: int, length: int) -> None:
        if rate != sampling_rate:
            raise OptionError(
                f"{name} has {rate} samples a second and the model takes {sampling_rate}. Resample it, for example "
                f"with `ffmpeg -i IN -ar {sampling_rate} -ac 1 OUT.wav`."
            )
        if length > max_len:
            raise _too_long(name, length, rate, max_len)

    return as_samples(_read_wave(path, check, name) if is_plain else _read_any(path, check, name), name)


def _kind(header: bytes) -> str | None:
    """The format of a file that begins with ``header``; None: of none that is read."""
    if header.startswith(b"RIFF") and not b"WAVE".startswith(header[8:12]):
        return None
    # An MPEG frame: eleven bits that are set, any version, layer III.
    if len(header) > 1 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2:
        return "MP3"
    return next((kind for start, kind in _HEADERS.items() if header.startswith(start)), None)


def _encoding(header: bytes) -> tuple[int, int]:
    """Of a WAV file: the number of its encoding (1: whole numbers), and the bits of a sample beyond whole bytes."""
    place = header.find(b"fmt ") + 8
    if place < 8 or len(header) < place + 16:
        return 0, 0
    encoding, bits = header[place : place + 2], header[place + 14 : place + 16]
    return int.from_bytes(encoding, "little"), int.from_bytes(bits, "little") % 8


def _cut_off(name: str, length: int) -> OptionError:
    return OptionError(
        f"{name} is cut off: its header promises {length} samples, and it ends before them. Copy or convert it again."
    )


_WIDTHS: dict[int, str] = {2: "<i2", 4: "<i4"}


def _read_wave(path: Path, check: Callable[[int, int], None], name: str) -> np.ndarray:
    try:
        with wave.open(str(path)) as file:
            num_channels, width, length = file.getnchannels(), file.getsampwidth(), file.getnframes()
            if length * num_channels * width > path.stat().st_size:
                raise _cut_off(name, length)
            check(file.getframerate(), length)
            content = file.readframes(length)
    except (wave.Error, EOFError, RuntimeError) as error:
        said = str(error) or "its parts have other sizes than they say"
        raise OptionError(f"{name} is no WAV file that can be read: {said}") from error
    if len(content) != length * num_channels * width:
        raise _cut_off(name, length)
    return _numbers(content, width, name).reshape(-1, num_channels).mean(1, dtype=np.float32)


def _numbers(content: bytes, width: int, name: str) -> np.ndarray:
    """Whole numbers of ``width`` bytes as floats from −1 to 1."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    if width not in _WIDTHS:
        raise OptionError(f"{name} has samples of {8 * width} bits, expected 8, 16, 24 or 32.")
    return np.frombuffer(content, _WIDTHS[width]).astype(np.float32) / 2 ** (8 * width - 1)


def _read_any(path: Path, check: Callable[[int, int], None], name: str) -> np.ndarray:
    try:
        soundfile: Any = import_module("soundfile")
    except (ImportError, OSError) as error:
        raise OptionError(
            f"{name} is no plain WAV file of whole numbers, and soundfile, which reads other formats, is not installed "
            f"({AUDIO_EXTRA}). Install it, or convert the file with `ffmpeg -i IN OUT.wav`."
        ) from error
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.format not in FORMATS:
                raise OptionError(f"{name} is a {file.format} file, expected one of {', '.join(FORMATS)}.")
            check(file.samplerate, file.frames)
            length = file.frames
            samples: np.ndarray = file.read(frames=length, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise OptionError(f"{name} is not a readable audio file: {error}") from error
    if len(samples) < length:
        raise _cut_off(name, length)
    return samples.mean(1, dtype=np.float32)
