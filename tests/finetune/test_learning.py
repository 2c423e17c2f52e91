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
    began = time.perf_counter()
    before, after = example.main()
    assert before < 0.1
    assert after > 0.9
    assert time.perf_counter() - began < MAX_SECONDS


def test_an_adapter_learns_too(example: ModuleType, tmp_path: Path) -> None:
    """Merged into the model, so that the result is a checkpoint that compiles."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    rows = example.make_rows()
    asked, taught = rows[: example.NUM_QUESTIONS], rows[example.NUM_QUESTIONS :]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    report = finetune(
        example.CHECKPOINT, dataset=str(tmp_path / "data.jsonl"), output_dir=tmp_path / "run", device="cpu",
        use_peft=True, lora_r=16, target_modules="all-linear", lora_dropout=0.0, max_train_step=120,
        train_batch_size=16, gradient_accumulation_steps=1, lr=3e-3, lr_scheduler="cosine", warmup_steps=10,
    )  # fmt: skip
    assert report.model is not None
    assert report.num_trained < report.num_parameters / 10
    AutoPeftModelForCausalLM.from_pretrained(report.model).merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(report.model).save_pretrained(tmp_path / "merged")
    answers = example.answer(tmp_path / "merged", [row["prompt"] for row in asked])
    assert example.share_right(answers, asked) > 0.9
