"""Runs of fine-tuning one after the other, in each process that torchrun starts: ``in_processes.py RUNS.json``.

A run is the arguments of ``finetune``; with ``stop_rank``, that process alone gets SIGTERM in its third step. Each
process writes its reports, or the errors that ended a run, as lines of ``results-RANK.jsonl`` beside the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from QEfficient.errors import QEffError
from QEfficient.finetune.callbacks import StopOnSignal
from QEfficient.finetune.run import finetune

RANK = int(os.environ["RANK"])
STOP_STEP = 3
step_end = StopOnSignal.on_step_end


def run(options: dict[str, Any]) -> dict[str, Any]:
    """The report of a run, or its error."""
    stop_rank = options.pop("stop_rank", None)

    def stopped(self: StopOnSignal, args: Any, state: Any, control: Any, **more: Any) -> None:
        if stop_rank == RANK and state.global_step == STOP_STEP:
            os.kill(os.getpid(), signal.SIGTERM)
        step_end(self, args, state, control, **more)

    StopOnSignal.on_step_end = stopped  # type: ignore[method-assign]
    try:
        return finetune(options.pop("model"), **options).to_dict()
    except QEffError as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    runs = Path(sys.argv[1])
    with runs.with_name(f"results-{RANK}.jsonl").open("w", encoding="utf-8") as results:
        for options in json.loads(runs.read_text(encoding="utf-8")):
            results.write(json.dumps(run(options)) + "\n")
