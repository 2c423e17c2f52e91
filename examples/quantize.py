"""Quantize a model, and measure what it costs: bytes, and perplexity on a text.

    python examples/quantize.py my_int8
    python examples/quantize.py my_int4 --format int4 --model Qwen/Qwen2.5-0.5B-Instruct --text text.txt

The result is an ordinary checkpoint, which transformers and other libraries load too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import QEfficient
from QEfficient import QEFFAutoModelForCausalLM

DEMO = Path(__file__).parent / "demo_model" / "checkpoint"
TEXT = """Spring is the season when the days grow longer and the ground becomes warm again. Snow melts in the hills, and
the streams are full of water. Birds come back from the south and build their nests. Farmers sow their seeds, and in
the gardens the first flowers open."""


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Quantize a model.")
    parser.add_argument("output", type=Path, help="the folder to write, new or empty")
    parser.add_argument("--format", default="int8", help="int8, int4, fp8, mxfp6, mxfp4 or nvfp4")
    parser.add_argument("--model", default=str(DEMO), help="a model of the Hub, or a folder")
    parser.add_argument("--text", type=Path, help="a file to measure perplexity on")
    chosen = parser.parse_args(args)
    report = QEfficient.quantize(chosen.model, chosen.output, format=chosen.format, ignore=["*.down_proj"])
    print(f"{report.bytes_before / 1e6:.1f} MB -> {report.bytes_after / 1e6:.1f} MB")
    text = chosen.text.read_text(encoding="utf-8") if chosen.text else TEXT
    for model_name in (chosen.model, chosen.output):
        model = QEFFAutoModelForCausalLM.from_pretrained(model_name)
        model.compile(ctx_len=256)
        with model:  # the package is closed at the end
            print(f"{model_name}: {model.evaluate(text)}")


if __name__ == "__main__":
    main()
