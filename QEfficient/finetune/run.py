"""A fine-tuning run: settings, data and a checkpoint into TRL's trainer, and its result into a folder."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import LifecycleError, OptionError
from QEfficient.finetune.base import Base
from QEfficient.finetune.callbacks import AllStepsDone, EndWhereDone, SealCheckpoints, StopOnSignal, TakeIntervals
from QEfficient.finetune.checkpoints import (
    check_no_pickles,
    check_same_run,
    list_checkpoints,
    newest_complete,
    set_aside,
)
from QEfficient.finetune.data import Data
from QEfficient.finetune.devices import choose_device, choose_precision
from QEfficient.finetune.live import LiveTable
from QEfficient.finetune.output_folder import RESULT, check_output
from QEfficient.finetune.processes import decide_in_main, is_main_process, num_processes, wait_for_all
from QEfficient.finetune.report import FinetuneReport
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer import arguments, check_split, final_metrics, make_trainer
from QEfficient.finetune.trainer_errors import trainer_errors
from QEfficient.finetune.watching import LOSS_CURVE, METRICS, MetricsLog, draw_loss, perplexity, read_metrics
from QEfficient.progress import stage
from QEfficient.store.files import remove, storage_errors, user_path
from QEfficient.store.publish import publish_files
from QEfficient.transformers.checkpoint import load as loading

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_NEEDED = ("trl", "peft", "accelerate", "datasets")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


def finetune(
    pretrained_model_name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, **options: Any
) -> FinetuneReport:
    """Train a causal language model or a classifier of texts, or a LoRA adapter for one, on examples.

    In each of several processes that torchrun or ``accelerate launch`` starts, the same call trains one model together.

    Args:
        pretrained_model_name_or_path: a model on the Hub or a local folder, not quantised.
        trust_remote_code: allow the checkpoint's Python files to run.
        options: those of :class:`~QEfficient.finetune.settings.FinetuneOptions`; and ``revision``, ``cache_dir``,
            ``token``, ``local_files_only`` as in ``from_pretrained``.

    Raises:
        OptionError: an unknown or contradictory option, a layer that the model does not have, a checkpoint to resume
            from that is of another run, or an ``output_dir`` with something that is no run's and would be lost.
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
    check_output(output_dir, chosen, pretrained_model_name_or_path)
    choose_precision(chosen, choose_device(chosen))
    with _stage("Reading", str(pretrained_model_name_or_path)):
        base = Base.open(pretrained_model_name_or_path, hub, trust_remote_code)
    with _stage("Reading", str(chosen.dataset)):
        data = Data.read(chosen, base)
    base.check_tokens(data.sequences)
    return _Run(chosen, base, data, output_dir).go()


def check_installed() -> None:
    """
    Raises:
        LifecycleError: what the extra ``train`` installs is not there.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise LifecycleError(f"Fine-tuning needs {', '.join(missing)}: pip install 'qefficient[train]'.")


class _Run:
    """One call of :func:`finetune`, everything read."""

    def __init__(self, options: FinetuneOptions, base: Base, data: Data, output_dir: Path):
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
            "world_size": num_processes(),
            "base_model_sha256": self.base.digest,
            "training_data_sha256": self.data.digest,
            "labels": list(self.data.labels),
        }

    def go(self) -> FinetuneReport:
        """Train from the start, or from the newest complete checkpoint."""
        args = arguments(self.options, self.output_dir, has_validation=bool(self.data.validation))
        identity = self.identity
        start = decide_in_main(partial(self._start, identity)) if self.options.resume else None
        with storage_errors(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        with _stage("Loading", self.base.name):
            model = self.base.load(self.options, self.data.labels)
            self.base.check_lengths(model, self.data.sequences)
        is_language = self.options.task_mode == "generation"
        callbacks = [
            TakeIntervals(),
            self.stop,
            MetricsLog(self.output_dir / METRICS, self.live.show, is_language=is_language),
            SealCheckpoints(identity, self.options.keep_checkpoints),
            EndWhereDone(),
        ]
        trainer = make_trainer(self.options, args, model, self.base.tokenizer, self.data, callbacks)
        check_split(self.options, trainer)
        with (
            storage_errors(self.output_dir, only_under=self.output_dir),
            trainer_errors(self.options, start),
            self.stop.listening(),
            self.live.shown() if is_main_process() else nullcontext(),
            suppress(AllStepsDone),
        ):
            trainer.train(resume_from_checkpoint=start)
        return self._finish(trainer)

    def _start(self, identity: dict[str, Any]) -> str | None:
        """The checkpoint to continue from."""
        checkpoint = newest_complete(self.output_dir, is_strict=self.options.strict_resume)
        if checkpoint is None:
            logger.warning("%s has no complete checkpoint: training starts from the first step.", self.output_dir)
        else:
            check_same_run(checkpoint, identity)
            check_no_pickles(checkpoint)
        with storage_errors(self.output_dir):
            set_aside(self.output_dir, checkpoint)
        return None if checkpoint is None else str(checkpoint.path)

    def _finish(self, trainer: Trainer) -> FinetuneReport:
        is_done = self.stop.name is None
        metrics = final_metrics(trainer) if is_done and self.data.validation else {}
        model = self.output_dir / RESULT if is_done else None
        if model is not None:
            self._publish(trainer, model)
        if is_main_process():
            _draw(read_metrics(self.output_dir / METRICS), self.output_dir / LOSS_CURVE)
        wait_for_all()
        return self._report(trainer, model, metrics)

    def _publish(self, trainer: Trainer, folder: Path) -> None:
        # Every process has a part of the weights with FSDP, and all bring theirs together.
        weights = trainer.accelerator.get_state_dict(trainer.model) if self.options.fsdp else None

        def write(folder: Path) -> None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.save_pretrained(folder, state_dict=weights)
            self.base.tokenizer.save_pretrained(folder)
            if self.options.use_peft and self.data.labels:
                self.base.config.save_pretrained(folder)  # the names of the labels

        if is_main_process():
            remove(folder)
            publish_files(folder, write)

    def _report(self, trainer: Trainer, model: Path | None, metrics: dict[str, float]) -> FinetuneReport:
        lines = read_metrics(self.output_dir / METRICS)
        parameters = list(trainer.model.parameters())
        newest = list_checkpoints(self.output_dir)
        eval_loss = metrics.get("eval_loss")
        return FinetuneReport(
            output_dir=self.output_dir,
            model=model,
            num_steps=trainer.state.global_step,
            num_examples=len(self.data.train),
            num_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            num_parameters=sum(parameter.numel() for parameter in parameters),
            loss=next((line["loss"] for line in reversed(lines) if "loss" in line), None),
            eval_loss=eval_loss,
            perplexity=perplexity(eval_loss) if eval_loss is not None and not self.data.labels else None,
            accuracy=metrics.get("eval_accuracy"),
            stopped_by=self.stop.name,
            checkpoint=newest[0] if newest else None,
        )


def _stage(verb: str, what: str) -> AbstractContextManager[None]:
    """Of several processes on one terminal, one shows what it does."""
    return stage(verb, what) if is_main_process() else nullcontext()


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    try:
        draw_loss(lines, path)
    except ImportError:
        logger.info("There is no %s without matplotlib: pip install 'qefficient[train]'.", path.name)
