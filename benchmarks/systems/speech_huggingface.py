"""transformers' own speech models, in PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq


class Runner:
    """The model as ``from_pretrained`` gives it."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, dtype: str):
        torch.set_num_threads(num_threads)
        self._extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
        self._model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def transcribe(self, samples: np.ndarray, num_tokens: int) -> tuple[float, list[int]]:
        """Seconds, and the tokens of the answer."""
        began = time.perf_counter()
        rate = self._extractor.sampling_rate
        features = self._extractor(samples, sampling_rate=rate, return_tensors="pt").input_features
        ids = self._model.generate(features.to(self._model.dtype), max_new_tokens=num_tokens, do_sample=False)
        return time.perf_counter() - began, ids[0, -num_tokens:].tolist()
