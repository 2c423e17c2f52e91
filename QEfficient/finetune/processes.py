"""Several processes that train one model: which of them writes, and what all of them agree on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from QEfficient.errors import QEffError

Result = TypeVar("Result")


def num_processes() -> int:
    """As torchrun or ``accelerate launch`` says, before the processes are connected."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this one writes files and shows the progress."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Return once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def part() -> None:
    """Close the connections to the other processes, at the end of all work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def agree_on_greatest(value: int, device: torch.device) -> int:
    """The greatest value of all processes."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared.item())


def decide_in_main(decide: Callable[[], Result]) -> Result:
    """What ``decide`` returns or raises in the main process, in every process; files that change have one reader."""
    if not dist.is_initialized():
        return decide()
    outcome: list[tuple[Result | None, QEffError | None]] = [(None, None)]
    if is_main_process():
        try:
            outcome = [(decide(), None)]
        except QEffError as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome)
    result, refusal = outcome[0]
    if refusal is not None:
        raise refusal
    return result  # type: ignore[return-value]
