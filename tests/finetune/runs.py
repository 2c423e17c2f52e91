"""What tests of whole runs share: data, settings, and what a run left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from QEfficient.finetune.watching import read_metrics

ROWS = [{"prompt": f"What is {a} and {b}? ", "completion": str(a + b)} for a in range(4) for b in range(5)]
SHORT: dict[str, Any] = {
    "train_batch_size": 2, "gradient_accumulation_steps": 2, "lr": 1e-3, "device": "cpu", "seed": 7,
}  # fmt: skip
LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of each step."""
    return [(line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the result."""
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def assert_same_weights(one: Path, other: Path) -> None:
    """To the bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
