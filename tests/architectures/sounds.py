"""Signals for models that listen: tones, and features that no sound needs to have."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

SAMPLING_RATE = 16000
SAMPLE_LENS = (3001, 8000, 16003)
FEATURE_LENS = (37, 70, 100)


def tone(length: int, pitch: float = 220.0) -> np.ndarray:
    """Samples ``[length]`` of a tone that rises, with two others in it, float32."""
    time = np.arange(length) / SAMPLING_RATE
    sound = sum(np.sin(2 * np.pi * pitch * factor * time * (1 + time)) / factor for factor in (1, 3, 7))
    return (0.3 * sound * np.linspace(0.3, 1.0, length)).astype(np.float32)


def features(length: int, width: int, seed: int = 0) -> np.ndarray:
    """Random features ``[length, width]``, float32."""
    return np.random.default_rng(seed).standard_normal((length, width)).astype(np.float32)


def tones(name: str, model: Any) -> list[np.ndarray]:
    """Signals of three lengths as ``model`` of ours takes them under ``name``."""
    if name == "input_values":
        return [tone(length, 110.0 * (index + 2)) for index, length in enumerate(SAMPLE_LENS)]
    width = model._contract(FEATURE_LENS[-1]).width
    return [features(length, width, index) for index, length in enumerate(FEATURE_LENS)]


def write_wave(path: Path, samples: np.ndarray, width: int = 2, rate: int = SAMPLING_RATE, channels: int = 1) -> Path:
    """A WAV file of whole numbers of ``width`` bytes; of several channels all the same."""
    greatest = 2 ** (8 * width - 1) - 1
    scaled = np.round(samples.astype(np.float64) * greatest).clip(-greatest, greatest).astype(np.int64)
    scaled = np.repeat(scaled[:, None], channels, 1).reshape(-1)
    if width == 1:
        content = (scaled + 128).astype(np.uint8).tobytes()
    else:
        content = scaled.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return path
