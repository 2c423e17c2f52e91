"""A process that has imported and traced everything once, and forks a worker for each line that it reads.

    python -m faults.kill_template CHECKPOINT DENSE

DENSE is a checkpoint of the same weights for Hugging Face.

Reads a job, a JSON object, and prints the worker's process id; a line "reap" waits for it. The worker's group is new,
so that it can be killed as a whole. Starting Python and tracing the model in each round would take most of an hour.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROMPT = [[5, 6, 7]]
NUM_TOKENS = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"target": "cpu", "ctx_len": 32, "precision": "fp32"},
    "cloud-ai-100-sim": {"target": "cloud-ai-100-sim", "ctx_len": 32, "prefill_seq_len": 8},
}


class _Traced(Exception):
    """Ends an export behind the trace."""


def trace_once(checkpoint: Path) -> None:
    """Replace the tracer by one that returns what it gave for these options before: a fork needs it once at most."""
    from QEfficient import QEFFAutoModelForCausalLM
    from QEfficient.exporter import export

    build: Callable[..., Any] = export._build
    traced: dict[tuple[str, ...], Any] = {}

    def remember(graph: Any, source: Any, in_checkpoint_dtype: bool, transforms: Any) -> Any:
        traced[graph.lowering, *transforms] = build(graph, source, in_checkpoint_dtype, transforms)
        raise _Traced

    export._build = remember
    for target in OPTIONS.values():
        try:
            QEFFAutoModelForCausalLM.from_pretrained(checkpoint).export(**target)
        except _Traced:
            continue
        raise AssertionError("nothing was traced")
    export._build = lambda graph, source, in_checkpoint_dtype, transforms: traced[graph.lowering, *transforms]


def prepare(checkpoint: Path, dense: Path) -> tuple[Any, list[int]]:
    """Do what all workers would do first; returns the model, and Hugging Face's answer.

    A fork loses all threads but one, so that none may be left: OpenVINO's begin with its import.
    """
    import blake3
    import onnx  # noqa: F401
    import torch
    import tqdm
    from transformers import AutoModelForCausalLM

    from QEfficient import QEFFAutoModelForCausalLM
    from QEfficient.transformers.checkpoint import source

    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0

    def blake3_alone(max_threads: int) -> Any:
        return blake3.blake3()

    blake3_alone.AUTO = 1  # type: ignore[attr-defined]
    source.blake3 = SimpleNamespace(blake3=blake3_alone)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as home:
        os.environ["QEFF_HOME"] = home
        trace_once(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(dense)
    ids = model.generate(torch.tensor(PROMPT), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None)
    gc.collect()
    gc.freeze()  # or each worker copies what it looks through
    return QEFFAutoModelForCausalLM.from_pretrained(checkpoint), ids[0, len(PROMPT[0]) :].tolist()


def work(model: Any, job: dict[str, Any]) -> None:
    """Export or compile; where the job asks for it, answer, and say how long the first took."""
    os.environ.update(job["environment"])
    tempfile.tempdir = None
    began = time.monotonic()
    getattr(model, job["stage"])(job["folder"], **OPTIONS[job["target"]])
    seconds = time.monotonic() - began
    if job["answers"]:
        answer = model.generate(PROMPT, generation_len=NUM_TOKENS).generated_ids[0].tolist()
        Path(job["answers"]).write_text(json.dumps([answer, seconds]))


def main() -> None:
    model, expected = prepare(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(expected), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.setpgid(0, 0)
                work(model, json.loads(line))
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                sys.stderr.flush()
                os._exit(status)
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
