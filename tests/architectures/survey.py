"""``python -m architectures.survey [family] [--only a,b]``: builds every tiny model, asks it, prints a line of each.

One worker process does the work; a model that kills it or takes too long costs only its own line."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from architectures.workers import Worker

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


def main() -> None:
    from architectures.tiny import UNABLE, families

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?", choices=list(families()))
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    only = set(filter(None, asked.only.split(",")))
    os.environ["HF_HUB_OFFLINE"] = "1"
    worker = Worker(survey, TIMEOUT_S)
    for family, model_types in families().items():
        for model_type in model_types:
            if asked.family not in (None, family) or (only and model_type not in only):
                continue
            if (family, model_type) in UNABLE and not only:
                print(f"{family} {model_type}: unable: {UNABLE[family, model_type]}", flush=True)
                continue
            print(f"{family} {model_type}: {json.dumps(worker.ask(family, model_type))}", flush=True)
    worker.close()


if __name__ == "__main__":
    main()
