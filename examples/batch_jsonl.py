"""Answer the prompts of a JSONL file, eight at a time, and write a JSONL file with the answers.

    python examples/batch_jsonl.py prompts.jsonl answers.jsonl
    python examples/batch_jsonl.py prompts.jsonl answers.jsonl --model Qwen/Qwen2.5-0.5B-Instruct

A line of the input is an object with `prompt`, or with `messages` for a chat, and may set `max_new_tokens`. Slots that
become free take the next prompt, and no prompt's answer depends on the others in its batch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from QEfficient import QEFFAutoModelForCausalLM

DEMO = Path(__file__).parent / "demo_model" / "checkpoint"


def answer(model: QEFFAutoModelForCausalLM, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with its answer and why the answer ended."""
    prompts = [row.get("messages") or row["prompt"] for row in rows]
    lens = [row.get("max_new_tokens", 64) for row in rows]
    info = model.generate(prompts, max_new_tokens=lens)
    print(info.speed)
    return [
        {**row, "answer": text, "finish_reason": reason}
        for row, text, reason in zip(rows, info.generated_texts, info.finish_reasons, strict=True)
    ]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer the prompts of a JSONL file.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default=str(DEMO), help="a model of the Hub, or a folder")
    chosen = parser.parse_args(args)
    rows = [json.loads(line) for line in chosen.input.read_text(encoding="utf-8").splitlines() if line.strip()]
    model = QEFFAutoModelForCausalLM.from_pretrained(chosen.model)
    model.compile(ctx_len=512, full_batch_size=8)
    answered = answer(model, rows)
    chosen.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answered), encoding="utf-8")


if __name__ == "__main__":
    main()
