"""Models with LoRA adapters, under the paths that the field knows."""

from QEfficient.peft.auto import QEFFAutoPeftModelForCausalLM
from QEfficient.peft.lora.auto import QEFFAutoLoraModelForCausalLM

QEffAutoPeftModelForCausalLM = QEFFAutoPeftModelForCausalLM
QEffAutoLoraModelForCausalLM = QEFFAutoLoraModelForCausalLM

__all__ = [
    "QEFFAutoLoraModelForCausalLM",
    "QEFFAutoPeftModelForCausalLM",
    "QEffAutoLoraModelForCausalLM",
    "QEffAutoPeftModelForCausalLM",
]
