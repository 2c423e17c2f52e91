"""transformers' own models that see, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.answers import Answer
from benchmarks.systems.huggingface import Clock


class Runner:
    """The model as ``from_pretrained`` gives it."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, dtype: str):
        torch.set_num_threads(num_threads)
        self._model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
        self._model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def answer(self, inputs: Mapping[str, np.ndarray], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`; ``inputs`` are a processor's output."""
        clock = Clock()
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        tensors["pixel_values"] = tensors["pixel_values"].to(self._model.dtype)
        output = self._model.generate(
            **tensors, max_new_tokens=num_new_tokens, do_sample=False, stopping_criteria=[clock]
        )
        return Answer.of_steps(output[:, inputs["input_ids"].shape[1] :].T.tolist(), clock.times)
