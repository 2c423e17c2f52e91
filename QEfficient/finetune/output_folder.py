"""The folder that a run writes to: what a run would replace there must be a run's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from QEfficient.errors import OptionError
from QEfficient.finetune.checkpoints import list_checkpoints
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.watching import LOSS_CURVE, METRICS, is_metrics
from QEfficient.store.manifest import MANIFEST_NAME

RESULT = "model"
"""The folder of the result, in ``output_dir``."""
_REPLACED = (METRICS, LOSS_CURVE, "README.md")
"""Files that a run, or TRL in it, writes without a look at what is there."""


def check_output(output_dir: Path, options: FinetuneOptions, model: str | os.PathLike[str]) -> None:
    """
    Args:
        output_dir: its real path.
        options: of the run.
        model: the folder or the name on the Hub of the model to train.

    Raises:
        OptionError: there are checkpoints, and ``resume`` is not set; the model or the data are in a place that the run
            writes to; or something in such a place is not of a run.
    """
    checkpoints = list_checkpoints(output_dir)
    if checkpoints and not options.resume:
        raise OptionError(
            f"{output_dir} has checkpoints of a run, the newest {checkpoints[0].name}. Continue it with resume=True "
            "(--resume), or give another output_dir."
        )
    for what, path in _inputs(options, model):
        if path in (output_dir, output_dir / METRICS) or path.is_relative_to(output_dir / RESULT):
            raise OptionError(f"The {what} in {path}, where the run writes. Give another output_dir.")
    _check_nothing_is_lost(output_dir, checkpoints)


def _inputs(options: FinetuneOptions, model: str | os.PathLike[str]) -> Iterator[tuple[str, Path]]:
    """What a run reads, by real paths; a name on the Hub is the path of nothing."""
    for what, source in (("model is", model), ("data are", options.dataset), ("data are", options.eval_dataset)):
        if source is not None:
            yield what, Path(os.path.realpath(os.path.expanduser(source)))


def _check_nothing_is_lost(output_dir: Path, checkpoints: Sequence[Path]) -> None:
    is_run = is_metrics(output_dir / METRICS) or any((folder / MANIFEST_NAME).exists() for folder in checkpoints)
    if is_run:
        names = [] if checkpoints else [RESULT]
    else:
        names = [*(folder.name for folder in checkpoints), RESULT, *_REPLACED]
    for name in names:
        if os.path.lexists(output_dir / name):
            raise OptionError(
                f"{output_dir} has '{name}' already, without a checkpoint of this library: the run would replace it. "
                "Move it away, or give another output_dir."
            )
