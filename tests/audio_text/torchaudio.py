"""The two functions of torchaudio that feature extractors call, over transformers' own: it is not installed here."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn


class MelSpectrogram(nn.Module):
    """Of power, ``[..., n_mels, frames]``, with frames centred on every ``hop_length``-th sample."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.sizes = n_fft, hop_length, win_length
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        n_fft, hop_length, win_length = self.sizes
        window = torch.hann_window(win_length)
        spectrum = torch.stft(waveform, n_fft, hop_length, win_length, window, return_complex=True)
        return self.filters.T @ spectrum.abs() ** 2


def fbank(waveform: torch.Tensor, *, num_mel_bins: int, sample_frequency: float = 16000, **options: Any) -> Any:
    """The logarithms of Kaldi's filter bank, ``[frames, num_mel_bins]``, for frames that fit whole."""
    from transformers.audio_utils import mel_filter_bank

    length, shift = (int(sample_frequency * options[name] / 1000) for name in ("frame_length", "frame_shift"))
    frames = waveform[0].unfold(0, length, shift) * torch.hamming_window(length, periodic=False)
    power = torch.fft.rfft(frames, 512).abs() ** 2
    filters = mel_filter_bank(257, num_mel_bins, 20.0, sample_frequency / 2, int(sample_frequency))
    floor = float(np.finfo(np.float32).eps)
    return (power @ torch.tensor(filters, dtype=torch.float32)).clamp(min=floor).log()


def extractor_class(model_type: str, name: str) -> Any:
    """The feature extractor ``name`` of transformers, over these functions where it needs torchaudio."""
    import transformers

    found = getattr(transformers, name)
    for folder in dict.fromkeys((model_type, model_type.removesuffix("_plus"))):
        try:
            module: Any = importlib.import_module(f"transformers.models.{folder}.feature_extraction_{folder}")
        except ModuleNotFoundError:
            continue
        if hasattr(module, "is_torchaudio_available") and not module.is_torchaudio_available():
            kaldi = SimpleNamespace(fbank=fbank)
            transforms = SimpleNamespace(MelSpectrogram=MelSpectrogram)
            module.torchaudio = SimpleNamespace(transforms=transforms, compliance=SimpleNamespace(kaldi=kaldi))
            module.requires_backends = lambda *args: None
        return getattr(module, name, found)
    return found
