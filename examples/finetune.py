"""Teach the demo model to write numbers backwards, compile it for this machine's processor, and count right answers.

    python examples/finetune.py

None of the 100 questions that count is in the training data. Takes about a minute on two cores; needs the extra
``train``: pip install 'qefficient[train]'.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.finetune.run import finetune

CHECKPOINT = Path(__file__).parent / "demo_model" / "checkpoint"
NUM_QUESTIONS = 100

Row = dict[str, str]


def make_rows(seed: int = 0) -> list[Row]:
    """A row of training data for each number of three digits."""
    numbers = list(range(100, 1000))
    random.Random(seed).shuffle(numbers)
    return [{"prompt": f"Write {number} backwards: ", "completion": str(number)[::-1]} for number in numbers]


def train(rows: Sequence[Row], output_dir: Path) -> Path:
    """The folder of a model that has learned from the rows."""
    data = output_dir / "backwards.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = finetune(
        CHECKPOINT,
        dataset=str(data),
        output_dir=output_dir / "run",
        device="cpu",
        max_train_step=100,
        train_batch_size=16,
        gradient_accumulation_steps=1,
        lr=2e-3,
        lr_scheduler="cosine",
        warmup_steps=10,
    )
    print(report)
    assert report.model is not None  # it is None only for a run that a signal stopped
    return report.model


def answer(model_folder: Path, questions: Sequence[str]) -> list[str]:
    """What a model says to each question, compiled for ``cpu``."""
    model = QEFFAutoModelForCausalLM.from_pretrained(model_folder)
    model.compile(target="cpu", ctx_len=64, prefill_seq_len=32)
    return [text.strip() for text in model.generate(list(questions), generation_len=8).generated_texts]


def share_right(answers: Sequence[str], rows: Sequence[Row]) -> float:
    """Share of the answers that are exactly those of the rows."""
    return sum(text == row["completion"] for text, row in zip(answers, rows, strict=True)) / len(rows)


def main() -> tuple[float, float]:
    """Shares of right answers, before and after."""
    rows = make_rows()
    asked, taught = rows[:NUM_QUESTIONS], rows[NUM_QUESTIONS:]
    questions = [row["prompt"] for row in asked]
    before = share_right(answer(CHECKPOINT, questions), asked)
    print(f"Before: {before:.0%} of {len(asked)} answers are right.")
    with TemporaryDirectory() as folder:
        answers = answer(train(taught, Path(folder)), questions)
    after = share_right(answers, asked)
    print(f"After:  {after:.0%}.")
    for question, text in zip(questions[:3], answers, strict=False):
        print(f"> {question}\n{text}")
    return before, after


if __name__ == "__main__":
    main()
