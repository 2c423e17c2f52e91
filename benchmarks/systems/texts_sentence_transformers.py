"""sentence-transformers over PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.systems.encoder import EncoderRunner


class Runner(EncoderRunner):
    """The folder as it is, which sorts texts by length itself."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, batch_size: int, dtype: str):
        torch.set_num_threads(num_threads)
        options = {"dtype": getattr(torch, dtype)}
        self._model = SentenceTransformer(str(checkpoint), device="cpu", model_kwargs=options)
        self._batch_size = batch_size

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(vectors, np.float32)
