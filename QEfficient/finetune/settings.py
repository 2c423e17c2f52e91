"""What a user can choose about a fine-tuning run. Imports nothing heavy, for the command line's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from QEfficient.errors import OptionError
from QEfficient.options import Options

Layout = Literal["alpaca", "prompt-completion", "chat", "text"]
Device = Literal["cpu", "cuda", "qaic"]
TaskMode = Literal["generation", "seq_classification"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]

_LORA = ("lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")
_MAY_CHANGE = frozenset(
    {"output_dir", "intermediate_step_save", "keep_checkpoints", "resume", "strict_resume", "logging_steps"}
    | {"num_workers_dataloader", "val_batch_size", "max_eval_step", "dataset", "eval_dataset"}
)
"""Settings that change neither the losses nor the weights of the steps that follow; data count by their content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptions(Options):
    """Options of ``QEfficient.finetune.run.finetune``."""

    dataset: str | None = None
    """Training data: a JSON, JSONL, CSV, Parquet or text file, a folder of them, or a data set on the Hub."""
    eval_dataset: str | None = None
    """Validation data, in the same forms."""
    validation_split: float = 0.0
    """Fraction of the training rows to set aside for validation."""
    task_mode: TaskMode = "generation"
    """generation: a causal language model. seq_classification: a model that gives a text one of the data's labels."""
    layout: Layout | None = None
    """Form of the rows: alpaca (instruction, input, output), prompt-completion, chat (messages) or text. Default: what
    the columns say."""
    prompt_template: str | None = None
    """The prompt, with columns in braces, as in '{question}'; for rows in another form. The text to classify."""
    completion_template: str | None = None
    """The completion, with columns in braces; with prompt_template. The label, in classification."""
    context_length: int = 1024
    """Maximum tokens of a sequence; longer rows are cut at the end."""
    batching_strategy: Literal["padding", "packing"] = "padding"
    """padding: a row is a sequence. packing: rows share sequences of context_length, and do not see each other."""
    use_peft: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_r: int = 8
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter: its output is multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.05
    """Dropout probability of the adapter's inputs in training."""
    target_modules: str = "q_proj,v_proj"
    """Names of the linear layers that get an adapter, separated by commas; all-linear: all but the output head."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(lora_r) instead."""
    use_dora: bool = False
    """Train the magnitude of the weights separately (DoRA)."""
    output_dir: str = "finetuned"
    """Folder for checkpoints, metrics and, in its folder `model`, the result."""
    num_epochs: float = 1.0
    """Passes over the training data."""
    max_train_step: int = 0
    """Maximum number of optimizer steps; 0: as many as num_epochs needs."""
    train_batch_size: int = 1
    """Sequences per forward pass and device."""
    val_batch_size: int = 1
    """The same for validation."""
    max_eval_step: int = 0
    """Maximum number of batches per validation; 0: all."""
    gradient_accumulation_steps: int = 4
    """Forward passes per optimizer step, whose gradients are added up."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, more time."""
    lr: float = 3e-4
    """Highest learning rate (AdamW)."""
    lr_scheduler: Scheduler = "linear"
    """Schedule of the learning rate."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradients; 0: no clipping."""
    seed: int = 42
    """Seed of the data order, the adapter's initial weights and dropout."""
    device: Device | None = None
    """Where to train: cpu, cuda, or qaic with torch_qaic. Default: cuda if there is one, else cpu."""
    precision: TrainingPrecision | None = None
    """Number format of the computation; trained weights stay in fp32. Default: bf16 if the GPU supports it, else
    fp32."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer states over the processes (FSDP2) instead of replicating them (DDP)."""
    num_workers_dataloader: int = 0
    """Number of processes that prepare batches."""
    intermediate_step_save: int = 1000
    """Optimizer steps between checkpoints; 0: only one, at the end."""
    keep_checkpoints: int = 2
    """Number of complete checkpoints to keep."""
    resume: bool = False
    """Continue from the newest complete checkpoint in output_dir."""
    strict_resume: bool = False
    """Fail if the newest checkpoint is damaged, instead of using the one before."""
    logging_steps: int = 1
    """Optimizer steps between lines of metrics."""

    def __post_init__(self) -> None:
        for name in ("dataset", "eval_dataset", "output_dir", "target_modules"):
            if getattr(self, name) == "":
                raise OptionError(f"{name} is empty text: a shell puts that for a variable that is not set.")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        for name, least in _LEAST.items():
            _check_whole(name, getattr(self, name), least)
        if self.seed > _GREATEST_SEED:
            raise OptionError(f"seed must be at most {_GREATEST_SEED}, got {self.seed}.")
        for name in ("num_epochs", "lr", "weight_decay", "max_grad_norm", "lora_dropout", "validation_split"):
            _check_number(name, getattr(self, name))
        if self.num_epochs <= 0 or self.lr <= 0:
            raise OptionError(f"num_epochs and lr must be positive, got {self.num_epochs!r} and {self.lr!r}.")
        for name in ("lora_dropout", "validation_split"):
            if getattr(self, name) >= 1:
                raise OptionError(f"{name} is a share: it must be less than 1, got {getattr(self, name)!r}.")
        self._check_together()

    def _check_together(self) -> None:
        if (self.prompt_template is None) != (self.completion_template is None):
            raise OptionError("prompt_template and completion_template are for each other: give both.")
        if self.prompt_template is not None and self.layout is not None:
            raise OptionError(f"prompt_template and layout={self.layout!r} contradict each other: give one.")
        if self.task_mode == "seq_classification" and (self.layout is not None or self.batching_strategy == "packing"):
            name = "layout" if self.layout is not None else "batching_strategy='packing'"
            raise OptionError(f"{name} is for task_mode='generation' only: rows to classify have a text and a label.")
        if self.eval_dataset is not None and self.validation_split:
            raise OptionError("eval_dataset and validation_split contradict each other: give one.")
        if self.strict_resume and not self.resume:
            raise OptionError("strict_resume is read with resume=True only.")
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in _LORA if getattr(self, name) != defaults[name]]
        if changed and not self.use_peft:
            raise OptionError(f"{changed[0]} is read with use_peft=True only; else all weights are trained.")
        if self.precision == "fp16" and self.device == "cpu":
            raise OptionError("precision='fp16' needs a GPU: use bf16 or fp32 on cpu.")

    def fixed(self) -> dict[str, Any]:
        """The settings that a run keeps from its first step to its last, by name."""
        names = [field.name for field in fields(self) if field.name not in _MAY_CHANGE]
        return {name: getattr(self, name) for name in names}


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "task_mode": get_args(TaskMode),
    "layout": get_args(Layout),
    "batching_strategy": ("padding", "packing"),
    "lr_scheduler": get_args(Scheduler),
    "device": get_args(Device),
    "precision": get_args(TrainingPrecision),
}
_LEAST: Mapping[str, int] = {
    "context_length": 2,
    **dict.fromkeys(("lora_r", "lora_alpha", "train_batch_size", "val_batch_size"), 1),
    **dict.fromkeys(("gradient_accumulation_steps", "keep_checkpoints", "logging_steps"), 1),
    **dict.fromkeys(("max_train_step", "max_eval_step", "warmup_steps", "seed"), 0),
    **dict.fromkeys(("num_workers_dataloader", "intermediate_step_save"), 0),
}


_GREATEST_SEED = 2**32 - 1
"""NumPy's."""


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise OptionError(f"{name} must be a number of at least 0, got {value!r}.")
