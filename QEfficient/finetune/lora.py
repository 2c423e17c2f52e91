"""The form of an adapter, for PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from QEfficient.errors import OptionError
from QEfficient.finetune.settings import FinetuneOptions

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def lora_config(options: FinetuneOptions, model: PreTrainedModel) -> LoraConfig:
    """
    Raises:
        OptionError: the model has no layer of a name in ``target_modules``.
    """
    from peft import LoraConfig

    names: str | list[str] = options.target_modules
    if isinstance(names, str) and names != "all-linear":
        names = [name.strip() for name in names.split(",")]
        _check_targets(names, model)
    return LoraConfig(
        task_type="CAUSAL_LM" if options.task_mode == "generation" else "SEQ_CLS",
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=names,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )


def _check_targets(names: Sequence[str], model: PreTrainedModel) -> None:
    """PEFT passes over a name that no module has, unless no name fits."""
    modules = [f".{name}" for name, _ in model.named_modules()]
    for wanted in names:
        if not any(name.endswith(f".{wanted}") for name in modules):
            layers = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
            raise OptionError(
                f"target_modules: the model has no layer '{wanted}'. Its linear layers are {', '.join(layers)}; "
                "all-linear takes all but the output head."
            )


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)
