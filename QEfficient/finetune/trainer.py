"""What Hugging Face's Trainer and TRL's get: arguments, data, an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.finetune.classification import accuracy, mean_loss, most_likely
from QEfficient.finetune.data import Data, as_dataset
from QEfficient.finetune.devices import check_used, choose_device, choose_precision
from QEfficient.finetune.lora import linear_layers, lora_config, warn_of_merging
from QEfficient.finetune.processes import num_processes
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer_errors import refusals

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments


def arguments(options: FinetuneOptions, output_dir: Path, *, has_validation: bool) -> TrainingArguments:
    """Of the Trainer. Several processes find each other here.

    Args:
        options: of the run.
        output_dir: where checkpoints and logs go.
        has_validation: whether there is something to evaluate after each epoch.

    Raises:
        OptionError: the precision is not one of the device's, or ``fsdp`` in one process.
        TargetUnavailable: the device is not on this machine, or the Trainer would use another.
    """
    from accelerate import DistributedType
    from transformers import TrainingArguments
    from trl import SFTConfig

    device = choose_device(options)
    if options.fsdp and num_processes() == 1:
        raise OptionError("fsdp splits a model over processes: start several, with torchrun or accelerate launch.")
    settings = {
        **_settings(options),
        **_numbers_and_devices(options),
        "output_dir": str(output_dir),
        "eval_strategy": "epoch" if has_validation else "no",
    }
    with _device_for_accelerate(device):
        if options.task_mode == "seq_classification":
            made = TrainingArguments(**settings, label_names=["labels"], include_num_input_tokens_seen="non_padding")
        else:
            is_padded = options.batching_strategy == "padding"
            made = SFTConfig(
                **settings,
                max_length=options.context_length,
                packing=not is_padded,
                dataset_kwargs={"skip_prepare_dataset": is_padded},
            )
        check_used(device, made.device)
    if options.fsdp and device == "cpu":
        # Accelerate splits models over processes of every kind of device but processors, with code that fits them too.
        made.distributed_state.distributed_type = DistributedType.MULTI_GPU
    made._n_gpu = min(made.n_gpu, 1)  # else all GPUs of the machine would share the batches of one process
    return made


def _settings(options: FinetuneOptions) -> dict[str, Any]:
    return {
        "num_train_epochs": options.num_epochs,
        "max_steps": options.max_train_step or -1,
        "per_device_train_batch_size": options.train_batch_size,
        "per_device_eval_batch_size": options.val_batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation_steps,
        "learning_rate": options.lr,
        "lr_scheduler_type": options.lr_scheduler,
        "warmup_steps": options.warmup_steps,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "seed": options.seed,
        "data_seed": options.seed,
        "dataloader_num_workers": options.num_workers_dataloader,
        "save_strategy": "steps",
        "save_steps": options.intermediate_step_save or 2**31,
        "logging_steps": options.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": ["tensorboard"] if find_spec("tensorboard") is not None else [],
        "disable_tqdm": True,
    }


def _numbers_and_devices(options: FinetuneOptions) -> dict[str, Any]:
    device = choose_device(options)
    precision = choose_precision(options, device)
    settings: dict[str, Any] = {
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
        # The model's, also with FSDP: Accelerate's renames the weights, and PEFT would save none of them.
        "activation_checkpointing": options.gradient_checkpointing,
    }
    if options.fsdp:
        settings["fsdp"] = True
        # A checkpoint in parts has a pickled index, which would run code when it is read.
        settings["fsdp_config"] = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}
        if device == "cuda":
            settings["ddp_backend"] = "cuda:nccl,cpu:gloo"  # whole tensors are gathered on the processor
    return settings


@contextmanager
def _device_for_accelerate(device: str) -> Iterator[None]:
    """Accelerate knows no Cloud AI 100, but takes a device of any name from the environment."""
    if device != "qaic":
        yield
        return
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = "qaic:0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def make_trainer(
    options: FinetuneOptions,
    args: TrainingArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """The Trainer of the task.

    Raises:
        OptionError: the model has no linear layer of a name in ``target_modules``, or PEFT or TRL refuse the settings.
    """
    from transformers import PrinterCallback

    make = _for_classification if options.task_mode == "seq_classification" else _for_generation
    with refusals(linear_layers(model) if options.use_peft else ""):
        trainer = make(
            options,
            model,
            args=args,
            train_dataset=as_dataset(data.train),
            eval_dataset=as_dataset(data.validation) if data.validation else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
    warn_of_merging(trainer.model)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _for_generation(options: FinetuneOptions, model: PreTrainedModel, **more: Any) -> Trainer:
    from trl import SFTTrainer

    return SFTTrainer(model=model, peft_config=lora_config(options, model) if options.use_peft else None, **more)


def _for_classification(options: FinetuneOptions, model: PreTrainedModel, **more: Any) -> Trainer:
    from peft import get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, set_seed

    if options.use_peft:
        set_seed(options.seed)  # of the adapter's first weights, as TRL does
        model = get_peft_model(model, lora_config(options, model))
        if options.gradient_checkpointing:
            model.enable_input_require_grads()
    return Trainer(
        model=model,
        data_collator=DataCollatorWithPadding(more["processing_class"]),
        compute_loss_func=mean_loss,
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=most_likely,
        **more,
    )


def check_split(options: FinetuneOptions, trainer: Trainer) -> None:
    """
    Raises:
        TargetUnavailable: Accelerate would not split the model, as it passes over what it cannot do on a device.
        OptionError: it would, and was not asked to; its checkpoints have a pickled index then.
    """
    if trainer.is_fsdp_enabled and not options.fsdp:
        raise OptionError(
            "accelerate launch asks for FSDP in its flags or its config: give fsdp=True (--fsdp) instead."
        )
    if options.fsdp and not trainer.is_fsdp_enabled:
        raise TargetUnavailable(f"fsdp: Accelerate does not split a model over processes on '{trainer.args.device}'.")


def final_metrics(trainer: Trainer) -> dict[str, float]:
    """Of the validation, with the weights after the last step; an epoch that ended with it has been evaluated."""
    for line in reversed(trainer.state.log_history):
        if "eval_loss" in line and line["step"] == trainer.state.global_step:
            return dict(line)
    return dict(trainer.evaluate())
