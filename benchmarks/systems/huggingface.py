"""transformers' own ``generate``, in PyTorch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria

from benchmarks.answers import Answer


class Runner:
    """The model as ``from_pretrained`` gives it."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, dtype: str):
        torch.set_num_threads(num_threads)
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
        self._model.generation_config.eos_token_id = None

    def answer(self, prompts: list[list[int]], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`."""
        clock = Clock()
        ids = torch.tensor(prompts)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_new_tokens,
            do_sample=False,
            stopping_criteria=[clock],
        )
        return Answer.of_steps(output[:, ids.shape[1] :].T.tolist(), clock.times)


class Clock(StoppingCriteria):
    """Stops nothing: it is called after every token, which is when to look at the clock."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(time.perf_counter() - self._began)
        return torch.zeros(len(input_ids), dtype=torch.bool)
