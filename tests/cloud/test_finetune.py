"""finetune: a line or JSON and a model; SIGTERM ends it with its code; upstream's flags are known."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from cloud.commands import Cli

RUN = ("--device", "cpu", "--lr", "1e-3", "--gradient-accumulation-steps", "1", "--max_train_step", "2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": "My name is ", "completion": name} for name in ("John", "Anna", "Paul", "Mary")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def installed() -> None:
    for package in ("trl", "peft", "datasets"):
        pytest.importorskip(package)


@pytest.mark.usefixtures("installed")
def test_a_line_or_json(cli: Cli, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = cli("finetune", checkpoint, "--dataset", data, "--output_dir", tmp_path / "out", "--use_peft", *RUN)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("2 steps, ")
    assert result.out.endswith(f"The result is in {tmp_path / 'out' / 'model'}.\n")
    again = cli("finetune", checkpoint, "--dataset", data, "--output-dir", tmp_path / "out", *RUN)
    assert again.code == 2
    assert "--resume" in again.err
    (tmp_path / "run.yaml").write_text(f"model_name: {checkpoint}\ndataset: {data}\nlr: 5e-1\n")
    from_file = cli("finetune", "--config", tmp_path / "run.yaml", "--output-dir", tmp_path / "json", "--json", *RUN)
    assert from_file.err == ""
    assert from_file.json["num_trained"] == from_file.json["num_parameters"]
    first = json.loads((tmp_path / "json" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["learning_rate"] == 1e-3


@pytest.mark.usefixtures("installed")
def test_sigterm_ends_with_its_code(
    cli: Cli, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its handler does; tests/finetune sends the signal itself, to a process of its own."""
    from QEfficient.finetune.callbacks import StopOnSignal

    step_end = StopOnSignal.on_step_end

    def terminated(self: StopOnSignal, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.number = signal.SIGTERM
        step_end(self, args, state, control, **more)

    monkeypatch.setattr(StopOnSignal, "on_step_end", terminated)
    options = ("--dataset", data, "--output-dir", tmp_path / "out", *RUN)
    result = cli("finetune", checkpoint, *options)
    assert result.code == 143
    assert "Stopped by SIGTERM after 1 steps" in result.out
    monkeypatch.undo()
    assert cli("finetune", checkpoint, *options, "--resume").out.startswith("2 steps")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--gamma", "0.85"), "--gamma is not here: give --lr-scheduler"),
        (("--use_autocast",), "give --precision"),
        (("--task_mode", "seq_classification", "--layout", "chat"), "layout is for task_mode='generation' only"),
        (("--pooling", "mean"), "--pooling is for compiling"),
        (("--lora-r", "4"), "use_peft=True only"),
        ((), "dataset is missing"),
    ],
)
def test_what_is_refused(cli: Cli, checkpoint: Path, flags: tuple[str, ...], match: str) -> None:
    result = cli("finetune", checkpoint, *flags)
    assert result.code == 2
    assert match in result.err


def test_a_flag_of_upstream_that_changes_nothing(cli: Cli, checkpoint: Path) -> None:
    result = cli("finetune", checkpoint, "--run_validation", "--peft_method", "lora")
    assert "warning: --run-validation: no effect, validation runs where there are validation data." in result.err


def test_what_is_not_installed_is_named(
    cli: Cli, checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from QEfficient.finetune import run

    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "trl" else object())
    result = cli("finetune", checkpoint, "--dataset", data)
    assert result.code == 1
    assert "Fine-tuning needs trl: pip install 'qefficient[train]'" in result.err
