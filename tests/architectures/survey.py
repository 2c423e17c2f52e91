"""``python -m architectures.survey [family] [--only a,b]``: builds every tiny model, asks it, prints a line of each.

One worker process does the work; a model that kills it or takes too long costs only its own line."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 60


def survey(family: str, model_type: str) -> dict[str, Any]:
    """Facts about one tiny model: parameters, seconds, and what its answers look like.

    ``uncached`` counts, prompt by prompt, the tokens that one forward without a cache gives too; ``noise`` is how far
    apart the two ways' logits are at most, in standard deviations of the logits."""
    from architectures.reference import outputs, prompts, reference, uncached
    from architectures.tiny import tiny_model

    start = time.perf_counter()
    model = tiny_model(family, model_type)
    built_s = time.perf_counter() - start
    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "built_s": round(built_s, 2)}
    asked = prompts(model.config)
    if family in ("causal_lm", "seq2seq"):
        answers = reference(model, asked)
        facts["distinct"] = min(len(set(answer.tokens)) for answer in answers)
        facts["margin"] = float(f"{min(answer.margin / answer.logits.std() for answer in answers):.0e}")
    if family == "causal_lm":
        full = [uncached(model, ids, answer.tokens) for ids, answer in zip(asked, answers, strict=True)]
        facts["uncached"] = [
            sum(a == b for a, b in zip(logits.argmax(-1).tolist(), answer.tokens, strict=True))
            for logits, answer in zip(full, answers, strict=True)
        ]
        distances = [(a - b.logits).abs().max() / a.std() for a, b in zip(full, answers, strict=True)]
        facts["noise"] = float(f"{max(distances):.0e}")
    if family not in ("causal_lm", "seq2seq"):
        results = outputs(model, asked)
        facts["shapes"] = [list(result.shape) for result in results]
        facts["std"] = round(float(results[-1].std()), 4)
    return facts | {"seconds": round(time.perf_counter() - start, 2)}


def _work(requests: Connection) -> None:
    """Answers requests until there are no more; an error is an answer too."""
    import torch
    from transformers.utils import logging

    sys.stdout = sys.stderr  # some models print
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    while request := requests.recv():
        try:
            requests.send(survey(*request))
        except Exception as error:  # noqa: BLE001 whatever a model raises is what the survey reports
            where = [
                f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
            message = " ".join(str(error).split())
            requests.send({"error": f"{type(error).__name__}: {message[:300]} @ {' '.join(where[-3:])}"})


class _Worker:
    """A process that surveys one model after the other, and is replaced when one kills or hangs it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, family: str, model_type: str) -> dict[str, Any]:
        self.pipe.send((family, model_type))
        try:
            if self.pipe.poll(TIMEOUT_S):
                facts: dict[str, Any] = self.pipe.recv()
                return facts
        except EOFError:
            return {"error": "the process died"}
        self.process.kill()
        return {"error": f"no answer in {TIMEOUT_S} s"}


def main() -> None:
    from architectures.tiny import UNABLE, families

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?", choices=list(families()))
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    only = set(filter(None, asked.only.split(",")))
    os.environ["HF_HUB_OFFLINE"] = "1"
    worker = _Worker()
    for family, model_types in families().items():
        for model_type in model_types:
            if asked.family not in (None, family) or (only and model_type not in only):
                continue
            if (family, model_type) in UNABLE and not only:
                print(f"{family} {model_type}: unable: {UNABLE[family, model_type]}", flush=True)
                continue
            if not worker.process.is_alive():
                worker = _Worker()
            print(f"{family} {model_type}: {json.dumps(worker.ask(family, model_type))}", flush=True)
    worker.pipe.send(None)


if __name__ == "__main__":
    main()
