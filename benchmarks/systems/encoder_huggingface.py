"""transformers' own encoder, in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.systems.encoder import EncoderRunner, mean_pooled


class Runner(EncoderRunner):
    """The model in float32, with its tokenizer padding to the longest text."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int):
        torch.set_num_threads(num_threads)
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> np.ndarray:
        inputs = self._tokenizer(texts, padding=True, return_tensors="pt")
        return mean_pooled(self._model(**inputs).last_hidden_state, inputs["attention_mask"]).numpy()
