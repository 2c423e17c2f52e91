"""Many LoRA adapters at once, under the path that the field knows."""

from QEfficient.peft.lora.auto import QEFFAutoLoraModelForCausalLM

QEffAutoLoraModelForCausalLM = QEFFAutoLoraModelForCausalLM

__all__ = ["QEFFAutoLoraModelForCausalLM", "QEffAutoLoraModelForCausalLM"]
