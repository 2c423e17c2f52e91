"""onnxruntime-genai, from its own model builder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.answers import Answer


def prepare(checkpoint: Path, folder: Path, *, num_threads: int, weights: str) -> None:
    """Run the builder with its defaults; only the last token's logits are computed."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "--execution_provider", "cpu"]
    paths = ["--input", checkpoint, "--output", folder, "--cache_dir", folder / "cache"]
    options = ["--precision", weights, "--extra_options", "prune_lm_head=true"]
    subprocess.run([*command, *map(str, paths), *options], check=True)


class Runner:
    """A generator for each request, as its examples do."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, weights: str):
        import onnxruntime_genai as genai

        config = genai.Config(str(folder))
        session = {"intra_op_num_threads": num_threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)

    def answer(self, prompts: list[list[int]], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`. A least length equal to the greatest keeps the end token away."""
        import numpy as np
        import onnxruntime_genai as genai

        began = time.perf_counter()
        length = len(prompts[0]) + num_new_tokens
        params = genai.GeneratorParams(self._model)
        params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        tokens, times = [], []
        while not generator.is_done():
            generator.generate_next_token()
            tokens.append(generator.get_next_tokens().tolist())
            times.append(time.perf_counter() - began)
        return Answer.of_steps(tokens, times)
