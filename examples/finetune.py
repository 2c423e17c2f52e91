"""Teach the demo model two tasks with two LoRA adapters, and answer questions of both in one batch.

    python examples/finetune.py

None of the questions that count is in the training data. Takes about a minute on two cores; needs the
extra ``train``: pip install 'qefficient[train]'.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from QEfficient import QEffAutoLoraModelForCausalLM
from QEfficient.finetune.run import finetune

CHECKPOINT = Path(__file__).parent / "demo_model" / "checkpoint"
NUM_QUESTIONS = 50

Row = dict[str, str]
TASKS: dict[str, Callable[[int], str]] = {
    "backwards": lambda number: str(number)[::-1],
    "twice": lambda number: f"{number}{number}",
}
"""Name of a task, and of its adapter -> the right answer for a number."""


def make_rows(task: str, seed: int = 0) -> list[Row]:
    """A row of training data for each number of three digits."""
    numbers = list(range(100, 1000))
    random.Random(seed).shuffle(numbers)
    return [{"prompt": f"Write {number} {task}: ", "completion": TASKS[task](number)} for number in numbers]


def train(task: str, rows: Sequence[Row], output_dir: Path) -> Path:
    """The folder of an adapter that has learned from the rows."""
    data = output_dir / f"{task}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = finetune(
        CHECKPOINT,
        dataset=str(data),
        output_dir=output_dir / task,
        device="cpu",
        use_peft=True,
        lora_r=16,
        lora_dropout=0.0,
        target_modules="all-linear",
        max_train_step=120,
        train_batch_size=16,
        gradient_accumulation_steps=1,
        lr=3e-3,
        lr_scheduler="cosine",
        warmup_steps=10,
    )
    print(report)
    assert report.model is not None  # it is None only for a run that a signal stopped
    return report.model


def answer(adapters: Mapping[str, Path], asked: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """What the model says to the questions of all tasks, in one batch, each with the adapter of its task if there is
    one."""
    model = QEffAutoLoraModelForCausalLM.from_pretrained(CHECKPOINT)
    for name, folder in adapters.items():
        model.load_adapter(folder, name)
    model.compile(target="cpu", ctx_len=64, prefill_seq_len=32, full_batch_size=8)
    tasks = [task for task, rows in asked.items() for _ in rows]
    questions = [row["prompt"] for rows in asked.values() for row in rows]
    chosen = {"adapter": tasks} if adapters else {}
    texts = model.generate(questions, generation_len=10, **chosen).generated_texts
    return {name: [text.strip() for task, text in zip(tasks, texts, strict=True) if task == name] for name in asked}


def share_right(answers: Sequence[str], rows: Sequence[Row]) -> float:
    """Share of the answers that are exactly those of the rows."""
    return sum(text == row["completion"] for text, row in zip(answers, rows, strict=True)) / len(rows)


def main() -> dict[str, tuple[float, float]]:
    """Shares of right answers of each task, before and after."""
    rows = {task: make_rows(task) for task in TASKS}
    asked = {task: each[:NUM_QUESTIONS] for task, each in rows.items()}
    before = answer({}, asked)
    with TemporaryDirectory() as folder:
        adapters = {task: train(task, each[NUM_QUESTIONS:], Path(folder)) for task, each in rows.items()}
        after = answer(adapters, asked)
    shares = {task: (share_right(before[task], asked[task]), share_right(after[task], asked[task])) for task in TASKS}
    for task, (first, last) in shares.items():
        print(f"{task}: {first:.0%} of {NUM_QUESTIONS} answers were right, now {last:.0%}.")
        print(f"> {asked[task][0]['prompt']}\n{after[task][0]}")
    return shares


if __name__ == "__main__":
    main()
