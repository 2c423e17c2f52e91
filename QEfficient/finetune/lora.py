"""The form of an adapter, for PEFT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from QEfficient.errors import OptionError
from QEfficient.finetune.settings import FinetuneOptions

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def lora_config(options: FinetuneOptions, model: PreTrainedModel) -> LoraConfig:
    """
    Raises:
        OptionError: the model has no linear layer of a name in ``target_modules``.
    """
    from peft import LoraConfig

    names: str | list[str] = options.target_modules
    if isinstance(names, str) and names != "all-linear":
        names = [name.strip() for name in names.split(",") if name.strip()]
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
    """PEFT passes over a name that no module has, and takes layers whose adapters cannot be compiled."""
    if not names:
        raise OptionError(f"target_modules names no layer. {linear_layers(model)}")
    for wanted in names:
        modules = [module for name, module in model.named_modules() if f".{name}".endswith(f".{wanted}")]
        if not modules:
            raise OptionError(f"target_modules: the model has no layer '{wanted}'. {linear_layers(model)}")
        if not any(map(_is_linear, modules)):
            kind = type(modules[0]).__name__
            raise OptionError(f"target_modules: '{wanted}' ({kind}) is not a linear layer. {linear_layers(model)}")


def linear_layers(model: PreTrainedModel) -> str:
    """What to say of the layers that can have an adapter."""
    layers = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
    return f"The model's linear layers are {', '.join(layers)}; all-linear takes all but the output head."


def warn_of_merging(adapted: PeftModel | PreTrainedModel) -> None:
    """Say before the training if its result has to be merged in another place."""
    config = getattr(adapted, "peft_config", {}).get("default")
    parts = {"use_dora": "DoRA", "target_parameters": "matrices of experts"}
    for name, what in parts.items():
        if getattr(config, name, None):
            logger.warning(
                "This adapter has %s, which compiled models do not read. To compile the result, merge it with PEFT's "
                "merge_and_unload() and save the model.",
                what,
            )


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)
