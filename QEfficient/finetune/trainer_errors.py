"""The boundary to the Trainer: what it raises over a checkpoint or for want of memory becomes an error of ours."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from QEfficient.errors import CapacityError, OptionError, QEffError, UnsafeCheckpoint
from QEfficient.finetune.settings import FinetuneOptions

_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
"""What torch says of the processor's memory, in an error that has no class."""


@contextmanager
def trainer_errors(options: FinetuneOptions, checkpoint: str | None) -> Iterator[None]:
    """
    Args:
        options: of the run, for advice.
        checkpoint: the folder that the run continues from, if it does.

    Raises:
        UnsafeCheckpoint: a file of the checkpoint is a pickle of more than tensors and numbers.
        CapacityError: the device's memory does not hold the run.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            f"{checkpoint}: the state of the optimizer or of a random generator holds more than tensors and numbers, "
            "and reading it could run code. Remove this checkpoint; the run that wrote it was not one of this library."
        ) from error
    except torch.OutOfMemoryError as error:
        raise _no_memory(options) from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _NO_MEMORY):
            raise
        raise _no_memory(options) from error


@contextmanager
def refusals(advice: str) -> Iterator[None]:
    """
    Args:
        advice: for the user, after what PEFT or TRL say.

    Raises:
        OptionError: one of them refuses a combination of settings, in an error without a class.
    """
    try:
        yield
    except QEffError:
        raise
    except ValueError as error:
        why = " ".join(str(error).split())
        raise OptionError(f"PEFT and TRL refuse these settings: {why} {advice}".rstrip()) from error


def _no_memory(options: FinetuneOptions) -> CapacityError:
    advice = [
        f"train_batch_size={options.train_batch_size}, with more gradient_accumulation_steps",
        f"context_length={options.context_length}",
    ]
    more = ["gradient_checkpointing"] * (not options.gradient_checkpointing) + ["use_peft"] * (not options.use_peft)
    text = f" Turn on {' and '.join(more)}." if more else ""
    return CapacityError(f"The device's memory does not hold this run. Lower {' or '.join(advice)}.{text}")
