"""Two processes over gloo, with DDP and FSDP2: the losses of one process with the same global batch, and one stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from finetune.runs import LORA, ROWS, SHORT, assert_same_weights, losses, weights

from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.finetune.checkpoints import newest_complete
from QEfficient.finetune.run import finetune
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer import check_split

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SPLIT = {**SHORT, "gradient_accumulation_steps": 1}
"""In two processes, the batches of SHORT in one."""
LORA_WITHOUT_DROPOUT = {**LORA, "lora_dropout": 0.0}
LABELLED = [{"text": row["prompt"], "label": len(row["completion"])} for row in ROWS] + [{"text": "a", "label": 2}] * 4
CLASSIFY = {"task_mode": "seq_classification", "num_epochs": 2, "val_batch_size": 3, "lr": 1e-2}
RUNS: dict[str, dict[str, Any]] = {
    "ddp": SPLIT,
    "fsdp": {**SPLIT, "fsdp": True},
    "fsdp_lora": {**SPLIT, **LORA_WITHOUT_DROPOUT, "fsdp": True, "gradient_checkpointing": True},
    "classify": {**SPLIT, **CLASSIFY},
    "whole": {**SPLIT, **LORA},
    "parts": {**SPLIT, **LORA, "stop_rank": 1},
    "parts again": {**SPLIT, **LORA, "resume": True},
    "parts changed": {**SPLIT, **LORA, "resume": True, "lora_r": 8},
    "fsdp_parts": {**SPLIT, "fsdp": True, "stop_rank": 1},
    "fsdp_parts again": {**SPLIT, "fsdp": True, "resume": True},
}


@dataclass(frozen=True)
class Results:
    """Of the runs in two processes.

    Attributes:
        folder: With a folder for each run, named by its first word, and the data.
        reports: By the run, of both processes.
    """

    folder: Path
    reports: dict[str, tuple[dict[str, Any], dict[str, Any]]]


def options_of(name: str, base: Path, folder: Path) -> dict[str, Any]:
    data = str(folder / ("labelled.jsonl" if name == "classify" else "data.jsonl"))
    output_dir = str(folder / name.split()[0])
    return {"model": str(base), "dataset": data, "eval_dataset": data, "output_dir": output_dir, **RUNS[name]}


@pytest.fixture(scope="module")
def results(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All runs, in one start of two processes, since starting takes longest."""
    folder = tmp_path_factory.mktemp("processes")
    for file, rows in (("data.jsonl", ROWS), ("labelled.jsonl", LABELLED)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "runs.json").write_text(json.dumps([options_of(name, base, folder) for name in RUNS]))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    ended = subprocess.run(
        [sys.executable, *launch, HERE / "in_processes.py", folder / "runs.json"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-5000:]
    lines = [(folder / f"results-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    reports = [[json.loads(line) for line in of_rank] for of_rank in lines]
    return Results(folder, dict(zip(RUNS, zip(*reports, strict=True), strict=True)))


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp_lora", "classify"])
def test_losses_are_those_of_one_process(results: Results, base: Path, tmp_path: Path, name: str) -> None:
    options = options_of(name, base, results.folder) | {"output_dir": str(tmp_path / "one"), "fsdp": False}
    one = finetune(options.pop("model"), **{**options, "gradient_accumulation_steps": 2})
    two, _ = results.reports[name]
    ours, expected = losses(results.folder / name), losses(tmp_path / "one")
    assert [step for step, _ in ours] == [step for step, _ in expected] == list(range(1, len(expected) + 1))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in expected], rel=1e-4)
    assert two["eval_loss"] == pytest.approx(one.eval_loss, rel=1e-4)
    assert two["accuracy"] == one.accuracy
    assert (two["num_trained"], two["num_parameters"]) == (one.num_trained, one.num_parameters)
    tensors, tensors_of_one = weights(results.folder / name), weights(tmp_path / "one")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in tensors_of_one.items()
    }
    difference = max((tensor - tensors_of_one[name]).abs().max().item() for name, tensor in tensors.items())
    assert difference < 1e-3


@pytest.mark.parametrize(("parts", "whole"), [("parts", "whole"), ("fsdp_parts", "fsdp")])
def test_a_signal_to_one_process_stops_all_and_the_run_goes_on_exactly(
    results: Results, parts: str, whole: str
) -> None:
    for report in results.reports[parts]:
        assert (report["stopped_by"], report["num_steps"], report["model"]) == ("SIGTERM", 3, None)
        assert report["checkpoint"] == str(results.folder / parts / "checkpoint-3")
    for report in results.reports[f"{parts} again"]:
        assert (report["stopped_by"], report["num_steps"]) == (None, 5)
    assert losses(results.folder / parts) == losses(results.folder / whole)
    assert_same_weights(results.folder / parts, results.folder / whole)


def test_every_process_is_told_why_a_run_is_not_continued(results: Results) -> None:
    for report in results.reports["parts changed"]:
        assert report["error"].startswith("OptionError: ")
        assert "lora_r: 4 -> 8" in report["error"]


def test_another_number_of_processes_is_another_run(results: Results, base: Path) -> None:
    options = options_of("parts again", base, results.folder)
    with pytest.raises(OptionError, match="world_size: 2 -> 1"):
        finetune(options.pop("model"), **options)


def test_one_process_has_nothing_to_split(results: Results, base: Path, tmp_path: Path) -> None:
    options = options_of("fsdp", base, results.folder) | {"output_dir": str(tmp_path)}
    with pytest.raises(OptionError, match="start several, with torchrun"):
        finetune(options.pop("model"), **options)


@pytest.mark.parametrize(
    ("is_asked", "is_done", "error"),
    [(True, False, TargetUnavailable), (False, True, OptionError), (True, True, None), (False, False, None)],
)
def test_a_model_is_split_if_that_is_asked(is_asked: bool, is_done: bool, error: type[Exception] | None) -> None:
    """Accelerate passes over what it cannot do on a device, and reads its own config."""
    trainer = SimpleNamespace(is_fsdp_enabled=is_done, args=SimpleNamespace(device="xpu"))
    with pytest.raises(error, match=r"FSDP|fsdp") if error is not None else nullcontext():
        check_split(FinetuneOptions(fsdp=is_asked), trainer)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "launch",
    [
        ("torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
         "--dynamo_backend=no", "--main_process_port=0"),
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_the_command_in_two_processes(results: Results, base: Path, tmp_path: Path, launch: tuple[str, ...]) -> None:
    """One of them prints the report. A signal to the launcher leaves a checkpoint, from which the run goes on."""
    data, out = results.folder / "data.jsonl", tmp_path / "out"
    settings = ("--device", "cpu", "--train-batch-size", "2", "--gradient-accumulation-steps", "1", "--seed", "7")
    run = (base, "--dataset", data, *settings, "--lr", "1e-3", "--num-epochs", "20", "--output-dir", out, "--json")
    command = [sys.executable, "-m", *launch, "-m", "QEfficient.cloud.finetune", *map(str, run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as stopped:
        while stopped.poll() is None and not (out.is_dir() and len(losses(out)) > 2):
            time.sleep(0.1)
        stopped.terminate()
        stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    newest = newest_complete(out, is_strict=True)
    assert newest is not None
    assert newest.path.name != "checkpoint-100"
    ended = subprocess.run([*command, "--resume"], env=ENVIRONMENT, timeout=300, check=False, **pipes)
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert json.loads(ended.stdout)["num_steps"] == 100
    whole = tmp_path / "whole"
    assert subprocess.run([*command, "--output-dir", whole], env=ENVIRONMENT, check=False).returncode == 0
    assert losses(out) == losses(whole)
    assert_same_weights(out, whole)
