"""What a CI without cards can check: the card's compiler takes the model, and its tokens are those of Hugging Face.

    python examples/simulator_ci.py
    python examples/simulator_ci.py Qwen/Qwen2.5-0.5B-Instruct --mxfp6

The exit code is 1 where a token differs by more than the card's number formats explain.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from QEfficient import QEFFAutoModelForCausalLM

DEMO = Path(__file__).parent / "demo_model" / "checkpoint"
PROMPTS = ["The fox", "Once upon a time, a small robot lived in a lighthouse"]


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a model on the simulated card.")
    parser.add_argument("model", nargs="?", default=str(DEMO), help="a model of the Hub, or a folder")
    parser.add_argument("--mxfp6", action="store_true", help="weights in MXFP6")
    chosen = parser.parse_args(args)
    model = QEFFAutoModelForCausalLM.from_pretrained(chosen.model)
    model.compile(target="cloud-ai-100-sim", prefill_seq_len=16, ctx_len=64, mxfp6_matmul=chosen.mxfp6)
    with model:
        report = model.verify(PROMPTS, generation_len=8)
    print(report)
    return int(report.has_fault)


if __name__ == "__main__":
    sys.exit(main())
