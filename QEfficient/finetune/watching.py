"""What is seen of a run while it goes on, and what is left to look at afterwards."""

from __future__ import annotations

import json
import logging
import math
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from QEfficient.errors import NumericError
from QEfficient.store.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
LOSS_CURVE = "loss.png"
_TRAINING = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy")
_VALIDATION = ("eval_loss", "eval_mean_token_accuracy", "eval_accuracy")
_REPORTED = frozenset({*_TRAINING, *_VALIDATION})


class MetricsLog(TrainerCallback):
    """Writes a line of JSON for each report of the Trainer, and stops at the first loss that is no number."""

    def __init__(self, path: Path, show: Callable[[Mapping[str, float], int], None], *, is_language: bool = True):
        """
        Args:
            path: of the file.
            show: also gets each line, and the number of steps of the whole run.
            is_language: whether losses are those of tokens, which have a perplexity.
        """
        self.path = path
        self.show = show
        self.is_language = is_language
        self._seen = (time.perf_counter(), 0)
        """When the last line was written, and how many tokens had been read."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Forget the lines of steps that come again."""
        if not state.is_world_process_zero:
            return
        lines = read_metrics(self.path) if state.global_step else []
        _write_lines(self.path, [line for line in lines if line["step"] <= state.global_step])
        self._seen = (time.perf_counter(), 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """Report before each checkpoint, so that none is written after a loss that is no number."""
        control.should_log = control.should_log or control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **more: object,
    ) -> None:
        """Write the line.

        Raises:
            NumericError: the loss, or the norm of the gradients, is NaN or infinite.
        """
        line: dict[str, float] = {"step": state.global_step, "epoch": state.epoch or 0.0}
        line |= {name: value for name, value in (logs or {}).items() if name in _REPORTED}
        _check_finite(line, state.global_step, is_scaled=args.fp16)
        if len(line) == 2 or not state.is_world_process_zero:
            return
        if "loss" in line:
            line |= {"tokens_per_s": self._speed(_num_tokens(logs or {})), "memory_bytes": _memory_bytes()}
        elif self.is_language:
            line["perplexity"] = perplexity(line["eval_loss"])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.show(line, state.max_steps)

    def _speed(self, tokens: int) -> float:
        now = time.perf_counter()
        began, before = self._seen
        self._seen = now, tokens
        return round((tokens - before) / max(now - began, 1e-9), 1)


def _num_tokens(logs: Mapping[str, float]) -> int:
    """As TRL's trainer or the Trainer reports them."""
    return int(logs["num_tokens"] if "num_tokens" in logs else logs["num_input_tokens_seen"])


def _check_finite(line: dict[str, float], step: int, *, is_scaled: bool) -> None:
    # fp16's loss scaling overflows at times, and then skips the step.
    names = ("loss", "eval_loss") if is_scaled else ("loss", "eval_loss", "grad_norm")
    for name in names:
        if not math.isfinite(line.get(name, 0.0)):
            raise NumericError(
                f"{name} is {line[name]} at step {step}. Training has stopped; the newest checkpoint is from before. "
                "Lower lr, raise warmup_steps, or use precision='fp32'."
            )


def _memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def perplexity(loss: float) -> float:
    """exp of a mean loss per token, infinity where it has no number."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file, without those that are damaged: the last may be torn, where the writer was killed."""
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        line = _metrics_of(text)
        if line is None:
            logger.warning("%s, line %d: it is torn or no line of metrics, and is left out.", path, number)
        else:
            lines.append(line)
    return lines


def is_metrics(path: Path) -> bool:
    """Whether a run may have written this file: it is empty, or has a line of metrics at its begin."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    return not first or _metrics_of(first) is not None


def _metrics_of(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(path, text, temporary=path.with_suffix(".tmp"))


def draw_loss(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss of each step, and that of the validations, into a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from importlib import import_module

    figure: Any = import_module("matplotlib.figure").Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (label, style) in {"loss": ("training", "-"), "eval_loss": ("validation", "o--")}.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
