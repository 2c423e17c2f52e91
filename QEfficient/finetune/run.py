"""A fine-tuning run: settings, data and a checkpoint into TRL's trainer, and its result into a folder."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from QEfficient.errors import CheckpointError, LifecycleError, OptionError, UnsupportedModel
from QEfficient.finetune.callbacks import SealCheckpoints, StopOnSignal
from QEfficient.finetune.checkpoints import check_same_run, list_checkpoints, newest_complete
from QEfficient.finetune.devices import choose_device, choose_precision
from QEfficient.finetune.examples import Example, examples
from QEfficient.finetune.live import LiveTable
from QEfficient.finetune.report import FinetuneReport
from QEfficient.finetune.rows import read_rows
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer import arguments, as_dataset, final_eval_loss, lora
from QEfficient.finetune.trainer_errors import trainer_errors
from QEfficient.finetune.watching import LOSS_CURVE, METRICS, MetricsLog, draw_loss, perplexity, read_metrics
from QEfficient.progress import stage
from QEfficient.store.digests import digest, file_digest
from QEfficient.store.files import remove, storage_errors, user_path
from QEfficient.store.publish import publish_files
from QEfficient.transformers.checkpoint import load as loading
from QEfficient.transformers.quantizers.auto import read_scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

logger = logging.getLogger(__name__)

MODEL = "model"
"""The folder of the result, in ``output_dir``."""
_NEEDED = ("trl", "peft", "accelerate", "datasets")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


def finetune(
    pretrained_model_name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, **options: Any
) -> FinetuneReport:
    """Train a causal language model, or a LoRA adapter for it, on examples.

    Args:
        pretrained_model_name_or_path: a model on the Hub or a local folder, not quantised.
        trust_remote_code: allow the checkpoint's Python files to run.
        options: those of :class:`~QEfficient.finetune.settings.FinetuneOptions`; and ``revision``, ``cache_dir``,
            ``token``, ``local_files_only`` as in ``from_pretrained``.

    Raises:
        OptionError: an unknown or contradictory option, a layer that the model does not have, or a checkpoint to resume
            from that is of another run.
        LifecycleError: a package that training needs is not installed.
        TargetUnavailable: the device is not on this machine.
        DatasetError: the data cannot be used; names file and line.
        CheckpointError: the model cannot be used; see ``from_pretrained``.
        CapacityError: the device's memory does not hold the run.
        UnsafeCheckpoint: a file of the checkpoint to resume from would run code.
        NumericError: the loss is no number; the newest checkpoint is from before.
        CorruptArtifact: with ``strict_resume``, the newest checkpoint is damaged.
    """
    hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
    chosen = FinetuneOptions.parse(options, beside=_HUB_OPTIONS)
    loading.check_options({**hub, "trust_remote_code": trust_remote_code})
    if chosen.dataset is None:
        raise OptionError("dataset is missing: give a file, a folder of files, or a data set on the Hub.")
    check_installed()
    output_dir = Path(os.path.realpath(user_path(chosen.output_dir, "output_dir")))
    _check_output(output_dir, chosen)
    choose_precision(chosen, choose_device(chosen))
    with stage("Loading", str(pretrained_model_name_or_path)):
        base = _Base.load(pretrained_model_name_or_path, chosen, hub, trust_remote_code)
    with stage("Reading", str(chosen.dataset)):
        data = _Data.read(chosen, base.tokenizer)
    return _Run(chosen, base, data, output_dir).go()


def check_installed() -> None:
    """
    Raises:
        LifecycleError: what the extra ``train`` installs is not there.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise LifecycleError(f"Fine-tuning needs {', '.join(missing)}: pip install 'qefficient[train]'.")


def _check_output(output_dir: Path, options: FinetuneOptions) -> None:
    existing = list_checkpoints(output_dir)
    if existing and not options.resume:
        raise OptionError(
            f"{output_dir} has checkpoints of a run, the newest {existing[0].name}. Continue it with resume=True "
            "(--resume), or give another output_dir."
        )


@dataclass(frozen=True)
class _Base:
    """The model to train, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str

    @classmethod
    def load(
        cls, name: str | os.PathLike[str], options: FinetuneOptions, hub: dict[str, Any], trust_remote_code: bool
    ) -> _Base:
        from transformers import AutoModelForCausalLM

        folder = loading.resolve(name, **hub)
        if read_scheme(folder) is not None:
            raise UnsupportedModel(f"'{name}' is quantized: train the checkpoint that it was made of.")
        files = loading.check_safe(folder, trust_remote_code)
        tokenizer = loading.load_tokenizer(folder, trust_remote_code)
        if tokenizer is None:
            raise CheckpointError(f"'{name}' brings no tokenizer. Save one into its folder.")
        if tokenizer.pad_token is None and tokenizer.eos_token is None:
            raise CheckpointError(f"The tokenizer of '{name}' has neither a pad token nor an end token. Set one.")
        precision = choose_precision(options, choose_device(options))
        # A frozen base may be in the numbers of the computation; weights that are trained need more digits.
        dtype = torch.bfloat16 if options.use_peft and precision == "bf16" else torch.float32
        model = loading.load_model(AutoModelForCausalLM, folder, trust_remote_code, dtype=dtype)
        if not Path(name).is_dir():  # PEFT writes it into the adapter: a name of the Hub, not a folder of its cache
            model.name_or_path = str(name)
        weights = digest([file_digest(path) for path in sorted(files.paths)])
        return cls(model, tokenizer, weights)


@dataclass(frozen=True)
class _Data:
    """Examples to train on and, if there are any, to validate with."""

    train: list[Example]
    validation: list[Example]

    @classmethod
    def read(cls, options: FinetuneOptions, tokenizer: PreTrainedTokenizerBase) -> _Data:
        rows = read_rows(str(options.dataset))
        set_aside = read_rows(options.eval_dataset, "validation") if options.eval_dataset is not None else []
        if options.validation_split:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed)).tolist()
            count = max(1, round(len(rows) * options.validation_split))
            if count >= len(rows):
                raise OptionError(f"validation_split={options.validation_split} leaves none of {len(rows)} rows.")
            set_aside = [rows[index] for index in sorted(order[:count])]
            rows = [rows[index] for index in sorted(order[count:])]
        validation = examples(set_aside, options, tokenizer) if set_aside else []
        if options.max_eval_step:
            validation = validation[: options.max_eval_step * options.val_batch_size]
        return cls(examples(rows, options, tokenizer), validation)


class _Run:
    """One call of :func:`finetune`, everything read."""

    def __init__(self, options: FinetuneOptions, base: _Base, data: _Data, output_dir: Path):
        self.options = options
        self.base = base
        self.data = data
        self.output_dir = output_dir
        self.stop = StopOnSignal()
        self.live = LiveTable()

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        device = choose_device(self.options)
        return {
            **self.options.fixed(),
            "device": device,
            "precision": choose_precision(self.options, device),
            "world_size": int(os.environ.get("WORLD_SIZE", "1")),
            "base_model_sha256": self.base.digest,
            "training_data_sha256": digest([[example.input_ids, example.labels] for example in self.data.train]),
        }

    def go(self) -> FinetuneReport:
        """Train from the start, or from the newest complete checkpoint."""
        identity = self.identity
        checkpoint = None
        if self.options.resume:
            checkpoint = newest_complete(self.output_dir, is_strict=self.options.strict_resume)
            if checkpoint is None:
                logger.warning("%s has no complete checkpoint: training starts from the first step.", self.output_dir)
            else:
                check_same_run(checkpoint, identity)
        with storage_errors(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        trainer = self._trainer(identity)
        start = None if checkpoint is None else str(checkpoint.path)
        with (
            storage_errors(self.output_dir, only_under=self.output_dir),
            trainer_errors(self.options, start),
            self.stop.listening(),
            self.live.shown(),
        ):
            trainer.train(resume_from_checkpoint=start)
        return self._finish(trainer)

    def _trainer(self, identity: dict[str, Any]) -> SFTTrainer:
        from transformers import PrinterCallback
        from trl import SFTTrainer

        trainer = SFTTrainer(
            model=self.base.model,
            args=arguments(self.options, self.output_dir, has_validation=bool(self.data.validation)),
            train_dataset=as_dataset(self.data.train),
            eval_dataset=as_dataset(self.data.validation) if self.data.validation else None,
            processing_class=self.base.tokenizer,
            peft_config=lora(self.options, self.base.model) if self.options.use_peft else None,
            callbacks=[
                self.stop,
                MetricsLog(self.output_dir / METRICS, self.live.show),
                SealCheckpoints(identity, self.options.keep_checkpoints),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _finish(self, trainer: SFTTrainer) -> FinetuneReport:
        is_done = self.stop.name is None
        eval_loss = None
        if is_done and self.data.validation:
            eval_loss = final_eval_loss(trainer)
        model = self.output_dir / MODEL if is_done else None
        if model is not None and trainer.is_world_process_zero():
            remove(model)
            publish_files(model, partial(self._write, trainer))
        lines = read_metrics(self.output_dir / METRICS)
        _draw(lines, self.output_dir / LOSS_CURVE)
        parameters = list(trainer.model.parameters())
        newest = list_checkpoints(self.output_dir)
        return FinetuneReport(
            output_dir=self.output_dir,
            model=model,
            num_steps=trainer.state.global_step,
            num_examples=len(self.data.train),
            num_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            num_parameters=sum(parameter.numel() for parameter in parameters),
            loss=next((line["loss"] for line in reversed(lines) if "loss" in line), None),
            eval_loss=eval_loss,
            perplexity=None if eval_loss is None else perplexity(eval_loss),
            stopped_by=self.stop.name,
            checkpoint=newest[0] if newest else None,
        )

    def _write(self, trainer: SFTTrainer, folder: Path) -> None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(folder)
        self.base.tokenizer.save_pretrained(folder)


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    try:
        draw_loss(lines, path)
    except ImportError:
        logger.info("There is no %s without matplotlib: pip install 'qefficient[train]'.", path.name)
