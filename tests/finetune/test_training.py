"""Runs: the losses are those of a plain TRL script, and an interrupted run goes on as if it had not been."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import tiny_models
import torch
from finetune.files import Write
from finetune.runs import LORA, ROWS, SHORT, assert_same_weights, losses, weights

from QEfficient.errors import (
    CapacityError,
    CheckpointError,
    CorruptArtifact,
    NumericError,
    OptionError,
    UnsafeCheckpoint,
)
from QEfficient.finetune.callbacks import SealCheckpoints, StopOnSignal
from QEfficient.finetune.checkpoints import list_checkpoints, newest_complete, seal_checkpoint
from QEfficient.finetune.run import finetune
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer_errors import trainer_errors
from QEfficient.finetune.watching import read_metrics
from QEfficient.store.manifest import open_artifact

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)


@pytest.fixture
def data(write: Write) -> str:
    return str(write(ROWS))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_are_those_of_a_plain_trl_script(base: Path, data: str, tmp_path: Path, method: str) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear")
    plain = SFTTrainer(
        model=str(base),
        args=SFTConfig(
            output_dir=str(tmp_path / "plain"),
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            warmup_steps=2,
            num_train_epochs=1,
            seed=7,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(ROWS),
        peft_config=lora if method == "lora" else None,
    )
    plain.train()
    expected = [(line["step"], line["loss"]) for line in plain.state.log_history if "loss" in line]
    options = {**SHORT, **(LORA if method == "lora" else {})}
    finetune(base, dataset=data, output_dir=tmp_path / "ours", warmup_steps=2, **options)
    assert len(expected) == 5
    assert losses(tmp_path / "ours") == expected


_step_end = StopOnSignal.on_step_end


def _stopped_in_step_3(self: StopOnSignal, args: Any, state: Any, control: Any, **more: Any) -> None:
    """As its handler does; test_processes sends the signal, to another process."""
    if state.global_step == 3:
        self.number = signal.SIGTERM
    _step_end(self, args, state, control, **more)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_run_goes_on_exactly(
    base: Path, data: str, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SHORT, **(LORA if method == "lora" else {}), "dataset": data, "num_epochs": 2}
    whole = finetune(base, output_dir=tmp_path / "whole", **options)
    assert (whole.num_steps, whole.stopped_by) == (10, None)
    monkeypatch.setattr(StopOnSignal, "on_step_end", _stopped_in_step_3)
    stopped = finetune(base, output_dir=tmp_path / "parts", **options)
    monkeypatch.undo()
    assert (stopped.num_steps, stopped.stopped_by, stopped.model) == (3, "SIGTERM", None)
    assert stopped.checkpoint == tmp_path / "parts" / "checkpoint-3"
    with pytest.raises(OptionError, match="has checkpoints of a run, the newest checkpoint-3"):
        finetune(base, output_dir=tmp_path / "parts", **options)
    finetune(base, output_dir=tmp_path / "parts", resume=True, **options)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def test_a_stop_waits_for_no_validation(base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SHORT, "dataset": data, "eval_dataset": data, "output_dir": tmp_path / "out"}
    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", _stopped_in_step_3)
        assert finetune(base, **options).stopped_by == "SIGTERM"
    assert not any("eval_loss" in line for line in read_metrics(tmp_path / "out" / "metrics.jsonl"))
    finetune(base, resume=True, **options)
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval_loss" in line] == [5]


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run, with a checkpoint after steps 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("finished")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    finetune(
        base,
        **SHORT,
        **LORA,
        dataset=str(data),
        output_dir=folder / "out",
        intermediate_step_save=2,
        keep_checkpoints=3,
    )
    assert {path.name for path in (folder / "out").glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (2, 4, 5)}
    return folder


@pytest.fixture
def checkpoints(finished: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a run of which there are checkpoints, to change or to continue."""
    copytree(finished, tmp_path / "run")
    data, output = str(tmp_path / "run" / "data.jsonl"), tmp_path / "run" / "out"
    return {**SHORT, **LORA, "dataset": data, "output_dir": output, "intermediate_step_save": 2}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: dict[str, Any], damage: Any, name: str) -> None:
    folder = Path(checkpoints["output_dir"])
    damage(folder / "checkpoint-5" / name)
    newest = newest_complete(folder)
    assert newest is not None
    assert newest.path.name == "checkpoint-4"
    with pytest.raises(CorruptArtifact, match="checkpoint-5 cannot be used"):
        newest_complete(folder, is_strict=True)


def test_resuming_from_the_one_before_ends_in_the_same(checkpoints: dict[str, Any], base: Path) -> None:
    folder = Path(checkpoints["output_dir"])
    before, expected = losses(folder), weights(folder)
    _truncate(folder / "checkpoint-5" / "optimizer.pt")
    report = finetune(base, resume=True, **checkpoints)
    assert report.num_steps == 5
    assert losses(folder) == before
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())


def test_nothing_of_what_is_passed_over_is_in_what_is_written_again(
    checkpoints: dict[str, Any], base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(checkpoints["output_dir"])
    (folder / "checkpoint-5" / "stranger").touch()
    (folder / "checkpoint-9").mkdir()
    finetune(base, resume=True, **checkpoints)
    assert not list(folder.glob("checkpoint-*/stranger"))
    assert {path.name for path in folder.glob("*checkpoint-*")} == {
        *("checkpoint-4", "checkpoint-5", "damaged-checkpoint-5")
    }
    assert "checkpoint-5/stranger is not in the manifest.\n" in caplog.text
    assert "checkpoint-5 is now damaged-checkpoint-5." in caplog.text


def test_a_resumed_run_saves_and_logs_as_it_is_told_now(checkpoints: dict[str, Any], base: Path) -> None:
    folder = Path(checkpoints["output_dir"])
    for step in (4, 5):
        rmtree(folder / f"checkpoint-{step}")
    changes = {"intermediate_step_save": 1, "logging_steps": 2, "keep_checkpoints": 9}
    finetune(base, resume=True, **{**checkpoints, **changes})
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (2, 3, 4, 5)}


def test_damaged_metrics_do_not_end_a_run(
    checkpoints: dict[str, Any], base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Path(checkpoints["output_dir"]) / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(b"\xff\xfe\nnull\n[]\n{}\n3\n" + whole + b'{"step": 6, "lo')
    before = read_metrics(metrics)
    finetune(base, resume=True, **checkpoints)
    assert read_metrics(metrics) == before
    assert "metrics.jsonl, line 2: it is torn or no line of metrics" in caplog.text


def test_a_run_that_ended_before_its_result_was_there_takes_no_further_step(
    checkpoints: dict[str, Any], base: Path
) -> None:
    """Steps end in the middle of an epoch, where the Trainer looks at their number after another one."""
    options = {**checkpoints, "output_dir": Path(checkpoints["output_dir"]).with_name("short"), "max_train_step": 3}
    finetune(base, eval_dataset=options["dataset"], **options)
    folder = options["output_dir"]
    before, expected = losses(folder), weights(folder)
    rmtree(folder / "model")
    report = finetune(base, eval_dataset=options["dataset"], resume=True, **options)
    assert report.num_steps == 3
    assert report.eval_loss is not None
    assert losses(folder) == before
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())


@pytest.mark.parametrize("stage", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state", "seal"])
def test_killed_while_it_saves(
    base: Path, finished: Path, checkpoints: dict[str, Any], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk after a kill at the end of a stage of saving, at step 4, is enough to go on exactly."""
    from trl import SFTTrainer

    out = Path(checkpoints["output_dir"])
    rmtree(out)
    owner, name = (SealCheckpoints, "on_save") if stage == "seal" else (SFTTrainer, stage)
    work = getattr(owner, name)

    def killed(self: Any, *args: Any, **more: Any) -> None:
        if stage == "seal" and args[1].global_step == 4:
            raise KeyboardInterrupt
        work(self, *args, **more)
        if stage != "seal" and self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, **checkpoints)
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(out)] == ["checkpoint-4", "checkpoint-2"]
    newest = newest_complete(out)
    assert newest is not None
    assert newest.path.name == "checkpoint-2"
    finetune(base, resume=True, **checkpoints)
    assert losses(out) == losses(finished / "out")
    assert_same_weights(out, finished / "out")


class _Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"])
def test_a_pickle_in_a_checkpoint_is_not_run(
    base: Path, checkpoints: dict[str, Any], tmp_path: Path, name: str
) -> None:
    folder = Path(checkpoints["output_dir"]) / "checkpoint-4"
    rmtree(folder.with_name("checkpoint-5"))
    run = open_artifact(folder).manifest.ingredients
    torch.save({"state": _Canary(tmp_path / "canary")}, folder / name)
    if name == "adapter_model.bin":  # PEFT looks for it where there are no safetensors
        (folder / "adapter_model.safetensors").unlink()
    seal_checkpoint(folder, run)
    with pytest.raises(UnsafeCheckpoint, match=r"checkpoint-4: (the state of|adapter_model\.bin is a pickle)"):
        finetune(base, resume=True, **checkpoints)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_says_what_to_lower(error: RuntimeError) -> None:
    options = FinetuneOptions(train_batch_size=8)
    with (
        pytest.raises(CapacityError, match=r"train_batch_size=8.*Turn on gradient_checkpointing and use_peft"),
        trainer_errors(options, None),
    ):
        raise error
    with pytest.raises(RuntimeError, match="another"), trainer_errors(options, None):
        raise RuntimeError("another")


def test_layers_that_the_model_does_not_have(base: Path, data: str, tmp_path: Path) -> None:
    options = {"use_peft": True, "target_modules": "q_proj,c_attn", "output_dir": tmp_path, "dataset": data}
    with pytest.raises(OptionError, match=r"no layer 'c_attn'.*down_proj, gate_proj.*q_proj"):
        finetune(base, **options, **SHORT)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (" , ", "names no layer.*down_proj"),
        ("embed_tokens", r"'embed_tokens' \(Embedding\) is not a linear layer.*down_proj"),
        ("q_proj,self_attn", r"'self_attn' \(LlamaAttention\) is not a linear layer"),
        ("q_proj,lm_head", "PEFT and TRL refuse these settings: .*lm_head.*linear layers are down_proj"),
    ],
)
def test_layers_that_get_no_adapter(base: Path, data: str, tmp_path: Path, names: str, match: str) -> None:
    options = {"use_peft": True, "target_modules": names, "output_dir": tmp_path, "dataset": data}
    with pytest.raises(OptionError, match=match):
        finetune(base, **options, **SHORT)


@pytest.mark.parametrize("task", ["generation", "seq_classification"])
def test_more_tokens_than_the_model_has_positions(write: Write, tmp_path: Path, task: str) -> None:
    made = tiny_models.causal_lm("gpt2") if task == "generation" else tiny_models.classifier(2)
    model = tiny_models.save(made, tmp_path / "model")
    tiny_models.tiny_tokenizer().save_pretrained(model)
    data = str(write([{"text": "x" * 600, "label": number} for number in range(2)]))
    options = {**SHORT, "dataset": data, "output_dir": tmp_path / "out", "task_mode": task, "max_train_step": 1}
    with pytest.raises(OptionError, match=r"tokens, and .* has 512 positions: give context_length=512"):
        finetune(model, **options)
    finetune(model, context_length=512, **options)


@pytest.mark.parametrize("token", ["<pad>", "zebra"])
def test_tokens_that_the_model_does_not_have(base: Path, write: Write, tmp_path: Path, token: str) -> None:
    model = copytree(base, tmp_path / "model")
    tokenizer = tiny_models.tiny_tokenizer()
    if token == "zebra":
        tokenizer.add_tokens([token])
    else:
        tokenizer.add_special_tokens({"pad_token": "<empty>"})
    tokenizer.save_pretrained(model)
    data = str(write([{"prompt": "What is a ", "completion": "zebra"}]))
    with pytest.raises(CheckpointError, match="the number 320, and the model has embeddings for 320 tokens"):
        finetune(model, dataset=data, output_dir=tmp_path / "out", **SHORT)


def test_adapters_of_experts_need_another_dropout(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_models.save(tiny_models.causal_lm("qwen3_moe"), tmp_path / "moe")
    tiny_models.tiny_tokenizer().save_pretrained(model)
    options = {**SHORT, **LORA, "dataset": data, "output_dir": tmp_path / "out", "max_train_step": 1}
    with pytest.raises(OptionError, match=r"does not work with lora_dropout != 0.*q_proj"):
        finetune(model, **options)
    assert not caplog.text
    finetune(model, lora_dropout=0.0, **options)
    assert "adapter has matrices of experts, which compiled models do not read" in caplog.text


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lora_r": 8}, "lora_r: 4 -> 8"),
        ({"target_modules": "q_proj"}, "target_modules: 'all-linear' -> 'q_proj'"),
        ({"seed": 8}, "seed: 7 -> 8"),
        ({"validation_split": 0.5}, "training_data_sha256: "),
    ],
)
def test_changed_settings_are_refused_with_a_diff(
    checkpoints: dict[str, Any], base: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        finetune(base, resume=True, **{**checkpoints, **changes})


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    base: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss

    def poisoned(self: Any, *args: Any, **more: Any) -> Any:
        loss = compute(self, *args, **more)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", poisoned)
    out = tmp_path / "out"
    with pytest.raises(NumericError, match=r"loss is nan at step 4.*newest checkpoint is from before"):
        finetune(base, dataset=data, output_dir=out, intermediate_step_save=2, logging_steps=100, **SHORT)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]


def test_packed_rows_do_not_see_each_other(base: Path, data: str, tmp_path: Path) -> None:
    packed = finetune(
        base, dataset=data, output_dir=tmp_path / "packed", batching_strategy="packing", context_length=512,
        device="cpu", train_batch_size=1, gradient_accumulation_steps=1, max_train_step=1,
    )  # fmt: skip
    alone = finetune(
        base, dataset=data, output_dir=tmp_path / "alone", device="cpu", train_batch_size=len(ROWS),
        gradient_accumulation_steps=1, max_train_step=1,
    )  # fmt: skip
    assert packed.loss == pytest.approx(alone.loss, rel=1e-5)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"num_workers_dataloader": 1}])
def test_settings_that_change_no_loss(
    base: Path, finished: Path, checkpoints: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    finetune(base, **{**checkpoints, "output_dir": tmp_path / "other"}, **changes)
    assert signal.getsignal(signal.SIGCHLD) is handler
    expected = [loss for _, loss in losses(finished / "out")]
    assert [loss for _, loss in losses(tmp_path / "other")] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("changes", [{"use_rslora": True}, {"use_dora": True}, {"precision": "bf16"}])
def test_forms_of_training(base: Path, checkpoints: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    report = finetune(base, **{**checkpoints, "output_dir": tmp_path / "other", "max_train_step": 1}, **changes)
    settings = json.loads((tmp_path / "other" / "model" / "adapter_config.json").read_text())
    assert report.num_steps == 1
    assert {name: settings[name] for name in changes.keys() & settings.keys()} == {
        name: value for name, value in changes.items() if name != "precision"
    }
    assert {tensor.dtype for tensor in weights(tmp_path / "other").values()} == {torch.float32}


def test_what_a_run_leaves(base: Path, data: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import AutoModelForCausalLM

    report = finetune(base, dataset=data, output_dir=tmp_path, validation_split=0.2, **SHORT, **LORA)
    assert report.model is not None
    assert report.perplexity == pytest.approx(torch.tensor(report.eval_loss).exp().item())
    last = read_metrics(tmp_path / "metrics.jsonl")
    assert set(last[0]) >= {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_bytes"}
    assert [line["perplexity"] for line in last if "perplexity" in line] == [report.perplexity]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), report.model)
    assert not list(report.model.glob("*.bin"))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (tmp_path / "runs").rglob("events.out.tfevents.*")
    logged = EventAccumulator(str(events.parent)).Reload()
    steps = [(event.step, event.value) for event in logged.Scalars("train/loss")]
    assert steps == [(step, pytest.approx(loss)) for step, loss in losses(tmp_path)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(base: Path, data: str, tmp_path: Path) -> None:
    finetune(base, dataset=data, output_dir=tmp_path / "gpu", **{**SHORT, "device": "cuda", "precision": "fp32"})
    finetune(base, dataset=data, output_dir=tmp_path / "cpu", **SHORT)
    for (_, ours), (_, theirs) in zip(losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
