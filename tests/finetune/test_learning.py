"""Training teaches: answers that no model gave before are right, to questions that are not in the data."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType

import pytest

from QEfficient.finetune.run import finetune

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune.py"
MAX_SECONDS = 180

pytestmark = pytest.mark.sweep


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finetune_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example(example: ModuleType) -> None:
    """Two adapters, whose questions are answered in one batch."""
    began = time.perf_counter()
    shares = example.main()
    assert all(before < 0.1 for before, _ in shares.values()), shares
    assert all(after > 0.9 for _, after in shares.values()), shares
    assert time.perf_counter() - began < MAX_SECONDS


def test_all_weights_learn_too(example: ModuleType, tmp_path: Path) -> None:
    from QEfficient import QEFFAutoModelForCausalLM

    rows = example.make_rows("backwards")
    asked, taught = rows[: example.NUM_QUESTIONS], rows[example.NUM_QUESTIONS :]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    report = finetune(
        example.CHECKPOINT, dataset=str(tmp_path / "data.jsonl"), output_dir=tmp_path / "run", device="cpu",
        max_train_step=100, train_batch_size=16, gradient_accumulation_steps=1, lr=2e-3, lr_scheduler="cosine",
        warmup_steps=10,
    )  # fmt: skip
    model = QEFFAutoModelForCausalLM.from_pretrained(report.model)
    model.compile(target="cpu", ctx_len=64, prefill_seq_len=32)
    answers = model.generate([row["prompt"] for row in asked], generation_len=8).generated_texts
    assert example.share_right([text.strip() for text in answers], asked) > 0.9
