"""What happens between the Trainer's steps: checkpoints are sealed, and a request to stop is followed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from QEfficient.finetune.checkpoints import prune, seal_checkpoint
from QEfficient.finetune.processes import agree_on_greatest, wait_for_all


class SealCheckpoints(TrainerCallback):
    """Declares each checkpoint complete once the Trainer has written it, and only then removes the oldest."""

    def __init__(self, run: Mapping[str, Any], keep: int):
        self.run = run
        self.keep = keep

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object) -> None:
        """The Trainer has written the checkpoint of this step."""
        wait_for_all()  # each process writes the state of its random generators
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            seal_checkpoint(folder / f"checkpoint-{state.global_step}", self.run)
            prune(folder, self.keep)


class AllStepsDone(Exception):
    """The checkpoint that a run continues from is that of its last step."""


class EndWhereDone(TrainerCallback):
    """Leaves a run that has no step left. The Trainer would take one more, since it counts steps after each."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """The checkpoint is loaded.

        Raises:
            AllStepsDone: out of ``Trainer.train``.
        """
        if state.global_step >= state.max_steps:
            raise AllStepsDone


class TakeIntervals(TrainerCallback):
    """Saves and logs as often as this run says; the Trainer goes on as often as the run that wrote the checkpoint."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """The checkpoint is loaded."""
        state.compute_steps(args, state.max_steps)


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint and ends at the first step after a signal, which may have come to any of the processes.

    Attributes:
        number: Of the signal; 0 before one comes.
    """

    def __init__(self) -> None:
        self.number = 0

    @property
    def name(self) -> str | None:
        """Of the signal; None before one comes."""
        return signal.Signals(self.number).name if self.number else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGUSR1 while the block runs. Handlers belong to the main thread: elsewhere, nothing is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = (signal.SIGTERM, signal.SIGUSR1)
        # torch's loader of data handles SIGCHLD from its first worker process on, also when the training is over.
        before = {number: signal.getsignal(number) for number in (*heard, signal.SIGCHLD)}
        for number in heard:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # else it is not Python's
                    signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Stop here if a signal has come."""
        self.number = agree_on_greatest(self.number, args.device)
        if self.number:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Do not validate after a signal, as the Trainer does where it stops: there may be no time."""
        control.should_evaluate = control.should_evaluate and not self.number
