"""Settings from a YAML file: by their names, or in the sections of upstream's second pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from QEfficient.errors import OptionError, nearest
from QEfficient.finetune.settings import FinetuneOptions

MODEL_NAME = "model_name"
"""The one name of a file that is no setting: the model."""
_KNOWN = {field.name for field in fields(FinetuneOptions)} | {MODEL_NAME}

_NAMES: Mapping[str, str] = {
    "model.model_name": MODEL_NAME,
    "model.auto_class_name": "task_mode",
    "model.use_peft": "use_peft",
    "model.peft_config.lora_r": "lora_r",
    "model.peft_config.lora_alpha": "lora_alpha",
    "model.peft_config.lora_dropout": "lora_dropout",
    "model.peft_config.target_modules": "target_modules",
    "model.peft_config.use_rslora": "use_rslora",
    "model.peft_config.use_dora": "use_dora",
    "dataset.dataset_name": "dataset",
    "dataset.json_file_path": "dataset",
    "dataset.prompt_template": "prompt_template",
    "dataset.completion_template": "completion_template",
    "dataset.max_seq_length": "context_length",
    "dataset.num_workers": "num_workers_dataloader",
    "training.output_dir": "output_dir",
    "training.seed": "seed",
    "training.device": "device",
    "training.num_train_epochs": "num_epochs",
    "training.max_steps": "max_train_step",
    "training.per_device_train_batch_size": "train_batch_size",
    "training.per_device_eval_batch_size": "val_batch_size",
    "training.gradient_accumulation_steps": "gradient_accumulation_steps",
    "training.gradient_checkpointing": "gradient_checkpointing",
    "training.max_grad_norm": "max_grad_norm",
    "training.save_steps": "intermediate_step_save",
    "training.save_total_limit": "keep_checkpoints",
    "training.logging_steps": "logging_steps",
    "training.dataloader_num_workers": "num_workers_dataloader",
    "optimizers.lr": "lr",
    "optimizers.weight_decay": "weight_decay",
    "scheduler.scheduler_name": "lr_scheduler",
    "scheduler.warmup_steps": "warmup_steps",
}
"""Upstream's names, of its page on the pipeline (hf_finetune.md) and the configs beside its code."""
_ONLY: Mapping[str, tuple[object, ...]] = {
    "model.model_type": ("hf",),
    "model.peft_config.task_type": ("CAUSAL_LM", "SEQ_CLS"),
    "model.peft_config.peft_type": ("LORA",),
    "dataset.dataset_type": ("sft_dataset",),
    "dataset.split_train": ("train",),
    "training.type": ("sft",),
    "training.torch_compile": (False,),
    "training.pp_degree": (1,),
    "training.tp_degree": (1,),
    "optimizers.optimizer_name": ("AdamW", "adamw"),
}
"""Names whose value must be one of these, since there is no other way here."""
_NO_EFFECT = ("training.ddp_config.", "callbacks.tensorboard")
"""Process groups are Accelerate's matter; TensorBoard's logs are always written."""
_TASK_MODES = {"AutoModelForCausalLM": "generation", "AutoModelForSequenceClassification": "seq_classification"}
_SECTIONS = {name.rpartition(".")[0] for name in (*_NAMES, *_ONLY)} | {"callbacks", "training.ddp_config"}


def _number(value: object) -> object:
    """YAML reads 5e-5 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _joined(names: object) -> object:
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return ",".join(names)
    return names


def _task_mode(name: object) -> object:
    return _TASK_MODES.get(name, name) if isinstance(name, str) else name


_CHANGED: Mapping[str, Callable[[Any], Any]] = {
    "max_train_step": lambda steps: 0 if steps == -1 else steps,  # no limit there
    "target_modules": _joined,
    "task_mode": _task_mode,
    **{field.name: _number for field in fields(FinetuneOptions) if field.type == "float"},
}
"""How values become those of settings; one that is none stays as it is, and the check of the settings names it."""


def read_config(file: str) -> dict[str, Any]:
    """The settings of a YAML file, and ``model_name`` if it names one.

    Raises:
        OptionError: the file cannot be read, or a name or a value in it is none that is known.
    """
    path = Path(file)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"The settings in '{file}' cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise OptionError(f"'{file}' holds no settings: expected 'name: value' lines.")
    settings: dict[str, Any] = {}
    for name, value in _flat(content).items():
        known = _setting(name, value, file)
        if known is not None and known in settings and settings[known] != value:
            raise OptionError(f"{file}: '{name}' contradicts another name of {known}: give one.")
        if known is not None:
            settings[known] = _CHANGED[known](value) if known in _CHANGED else value
    return settings


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if value is None and f"{prefix}{name}" in _SECTIONS:
            continue  # a section without settings
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _setting(name: str, value: object, file: str) -> str | None:
    """The setting that ``name`` is; None for one without effect."""
    if name in _KNOWN:
        return name
    if name in _NAMES:
        return _NAMES[name]
    if name in _ONLY:
        if value not in _ONLY[name]:
            raise OptionError(f"{file}: {name} must be {_ONLY[name][0]!r}, got {value!r}: there is no other way yet.")
        return None
    if name.startswith(_NO_EFFECT):
        return None
    if name in _SECTIONS:
        raise OptionError(f"{file}: '{name}' is a section: expected names with values in it, got {value!r}.")
    raise OptionError(f"{file}: there is no setting '{name}'.{nearest(name, [*_KNOWN, *_NAMES])}")
