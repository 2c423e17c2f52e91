"""Where a run trains, and in which numbers."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.finetune.processes import num_processes
from QEfficient.finetune.settings import Device, FinetuneOptions, TrainingPrecision


def choose_device(options: FinetuneOptions) -> Device:
    """The device that is asked for, else a GPU if there is one, else the processor.

    Raises:
        TargetUnavailable: it is not on this machine, or what drives it is not installed.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TargetUnavailable("device='cuda': torch sees no GPU here. Use device='cpu', or a torch built for CUDA.")
    if options.device == "qaic":
        if find_spec("torch_qaic") is None:
            raise TargetUnavailable(
                "device='qaic' needs torch_qaic, which comes with the Cloud AI 100 Apps SDK "
                "(/opt/qti-aic/integrations/torch_qaic) and is not installed here. Install it, or use device='cpu'."
            )
        _start_qaic()
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _start_qaic() -> None:
    if num_processes() > 1:
        raise TargetUnavailable(
            "device='qaic' trains in one process: Accelerate forms no group of processes for it. Start without "
            "torchrun, or use device='cuda' or 'cpu'."
        )
    import_module("torch_qaic")  # registers the device
    try:
        torch.zeros(1, device="qaic")
    except (RuntimeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise TargetUnavailable(f"device='qaic': torch_qaic is installed, and no card can be used: {why}") from error


def check_used(wanted: Device, used: torch.device) -> None:
    """
    Raises:
        TargetUnavailable: the Trainer would train on another device.
    """
    if used.type != wanted:
        raise TargetUnavailable(
            f"device='{wanted}': the Trainer would train on '{used}' instead. Hide the other device from torch "
            "(CUDA_VISIBLE_DEVICES=''), or unset the ACCELERATE_ variables."
        )


def choose_precision(options: FinetuneOptions, device: Device) -> TrainingPrecision:
    """The numbers that are asked for, else bf16 on a GPU that has it, else fp32.

    Raises:
        OptionError: fp16 on the processor, where torch has no loss scaling.
    """
    if options.precision == "fp16" and device == "cpu":
        raise OptionError("precision='fp16' needs a GPU: use bf16 or fp32 on cpu.")
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return options.precision or ("bf16" if has_bf16 else "fp32")
