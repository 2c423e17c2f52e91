"""Settings: what contradicts is refused, and upstream's YAML and flags say the same as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetune.files import Write

from QEfficient.errors import OptionError
from QEfficient.finetune.config_file import read_config
from QEfficient.finetune.settings import FinetuneOptions

UPSTREAM = """
model:
  model_type: hf
  auto_class_name: AutoModelForCausalLM
  model_name: HuggingFaceTB/SmolLM-135M
  use_peft: true
  peft_config: {lora_r: 16, lora_alpha: 16, lora_dropout: 0, target_modules: [q_proj, v_proj], task_type: CAUSAL_LM}
dataset:
  dataset_type: sft_dataset
  dataset_name: yahma/alpaca-cleaned
  prompt_template: "{instruction}"
  completion_template: "{output}"
training:
  type: sft
  gradient_accumulation_steps: 2
  per_device_train_batch_size: 3
  torch_compile: False
  max_steps: -1
  ddp_config: {ddp_backend: qccl, ddp_timeout: 1800}
optimizers: {optimizer_name: AdamW, lr: 2e-4}
scheduler: {scheduler_name: cosine}
callbacks: {tensorboard: }
"""


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"lr": "fast"}, "lr must be a number"),
        ({"lr": 0.0}, "must be positive"),
        ({"num_epochs": float("inf")}, "num_epochs must be a number"),
        ({"train_batch_size": 0}, "train_batch_size must be a whole number of at least 1"),
        ({"lora_r": 4}, "lora_r is read with use_peft=True only"),
        ({"validation_split": 1.0}, "validation_split is a share"),
        ({"validation_split": 0.1, "eval_dataset": "x"}, "contradict"),
        ({"prompt_template": "{a}"}, "give both"),
        ({"prompt_template": "{a}", "completion_template": "{b}", "layout": "chat"}, "contradict"),
        ({"strict_resume": True}, "resume=True only"),
        ({"layout": "chats"}, "layout must be one of alpaca"),
        ({"precision": "fp16", "device": "cpu"}, "needs a GPU"),
        ({"task_mode": "classification"}, "task_mode must be one of generation, seq_classification"),
        ({"task_mode": "seq_classification", "batching_strategy": "packing"}, "batching_strategy='packing' is for"),
        ({"learning_rate": 1.0}, "Unknown option 'learning_rate'"),
        ({"lora_rank": 1}, "Did you mean 'lora_"),
        ({"seed": 2**32}, "seed must be at most 4294967295, got 4294967296"),
        ({"output_dir": ""}, "output_dir is empty text"),
        ({"dataset": ""}, "dataset is empty text"),
        ({"target_modules": "", "use_peft": True}, "target_modules is empty text"),
    ],
)
def test_what_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        FinetuneOptions.parse(values)


def test_sections_of_upstream(write: Write) -> None:
    settings = read_config(str(write(UPSTREAM, "config.yaml")))
    assert settings == {
        "model_name": "HuggingFaceTB/SmolLM-135M",
        "task_mode": "generation",
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 16,
        "lora_dropout": 0,
        "target_modules": "q_proj,v_proj",
        "dataset": "yahma/alpaca-cleaned",
        "prompt_template": "{instruction}",
        "completion_template": "{output}",
        "gradient_accumulation_steps": 2,
        "train_batch_size": 3,
        "max_train_step": 0,
        "lr": 2e-4,
        "lr_scheduler": "cosine",
    }
    del settings["model_name"]
    FinetuneOptions.parse(settings)


def test_a_class_of_upstream_is_a_task(write: Write) -> None:
    text = "model: {auto_class_name: AutoModelForSequenceClassification, peft_config: {task_type: SEQ_CLS}}"
    assert read_config(str(write(text, "config.yaml"))) == {"task_mode": "seq_classification"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lr: [", "cannot be read"),
        ("- lr", "holds no settings"),
        ("lr: 1\nlearning: 2", "no setting 'learning'"),
        ("training: {pp_degree: 2}", "training.pp_degree must be 1, got 2"),
        ("model: {peft_config: {peft_type: IA3}}", "peft_type must be 'LORA', got 'IA3'"),
        ("training: 5", "'training' is a section: expected names with values in it, got 5"),
        ("lr: 1\noptimizers: {lr: 2}", "'optimizers.lr' contradicts another name of lr"),
    ],
)
def test_files_that_are_refused(write: Write, text: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        read_config(str(write(text, "config.yaml")))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lr: fast", "lr must be a number of at least 0, got 'fast'"),
        ("optimizers: {lr: }", "lr must not be None"),
        ("max_train_step: many", "max_train_step must be a whole number of at least 0, got 'many'"),
        ("training: {max_steps: }", "max_train_step must not be None"),
        ("target_modules: [q_proj, 5]", "target_modules must be text"),
        ("target_modules: 5", "target_modules must be text"),
        ("task_mode: [generation]", "task_mode must be"),
    ],
)
def test_values_of_a_file_that_the_settings_refuse(write: Write, text: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        FinetuneOptions.parse(read_config(str(write(text, "config.yaml"))))


def test_numbers_that_yaml_reads_as_text(write: Write) -> None:
    settings = read_config(str(write("lr: 5e-5\nweight_decay: 1e-2\ncallbacks:\noptimizers:\n", "config.yaml")))
    assert settings == {"lr": 5e-5, "weight_decay": 0.01}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_config(str(tmp_path / "none.yaml"))
