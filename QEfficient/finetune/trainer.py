"""What TRL's trainer gets: arguments, a data set, an adapter's form."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from QEfficient.errors import OptionError
from QEfficient.finetune.devices import choose_device, choose_precision
from QEfficient.finetune.examples import Example
from QEfficient.finetune.settings import FinetuneOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel
    from trl import SFTConfig, SFTTrainer


def final_eval_loss(trainer: SFTTrainer) -> float:
    """Of the weights after the last step; an epoch that ended with it has been evaluated."""
    losses = {line["step"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    step = trainer.state.global_step
    return float(losses[step] if step in losses else trainer.evaluate()["eval_loss"])


def arguments(options: FinetuneOptions, output_dir: Path, *, has_validation: bool) -> SFTConfig:
    """
    Args:
        options: of the run.
        output_dir: where checkpoints and logs go.
        has_validation: whether there is something to evaluate after each epoch.

    Raises:
        OptionError: the precision is not one of the device's.
        TargetUnavailable: the device is not on this machine.
    """
    from trl import SFTConfig

    device = choose_device(options)
    precision = choose_precision(options, device)
    return SFTConfig(
        output_dir=str(output_dir),
        num_train_epochs=options.num_epochs,
        max_steps=options.max_train_step or -1,
        per_device_train_batch_size=options.train_batch_size,
        per_device_eval_batch_size=options.val_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        gradient_checkpointing=options.gradient_checkpointing,
        learning_rate=options.lr,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        data_seed=options.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        dataloader_num_workers=options.num_workers_dataloader,
        dataloader_pin_memory=device != "cpu",
        max_length=options.context_length,
        packing=options.batching_strategy == "packing",
        dataset_kwargs={"skip_prepare_dataset": options.batching_strategy == "padding"},
        save_strategy="steps",
        save_steps=options.intermediate_step_save or 2**31,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="epoch" if has_validation else "no",
        report_to=["tensorboard"] if find_spec("tensorboard") is not None else [],
        disable_tqdm=True,
    )


def as_dataset(made: Sequence[Example]) -> Dataset:
    """The examples, tokenized and labelled, in the columns that TRL takes as they are."""
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [example.input_ids for example in made], "labels": [example.labels for example in made]}
    )


def lora(options: FinetuneOptions, model: PreTrainedModel) -> LoraConfig:
    """
    Raises:
        OptionError: the model has no layer of a name in ``target_modules``.
    """
    from peft import LoraConfig

    names: str | list[str] = options.target_modules
    if isinstance(names, str) and names != "all-linear":
        names = [name.strip() for name in names.split(",")]
        _check_targets(names, model)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=names,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )


def _check_targets(names: Sequence[str], model: PreTrainedModel) -> None:
    """PEFT passes over a name that no module has, unless no name fits."""
    modules = [f".{name}" for name, _ in model.named_modules()]
    for wanted in names:
        if not any(name.endswith(f".{wanted}") for name in modules):
            layers = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
            raise OptionError(
                f"target_modules: the model has no layer '{wanted}'. Its linear layers are {', '.join(layers)}; "
                "all-linear takes all but the output head."
            )


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)
