"""Random LoRA adapters in PEFT's files, and what a model answers with them, computed with plain hooks."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

NUM_NEW_TOKENS = 10


def linear_layers(model: nn.Module, pattern: str) -> dict[str, tuple[int, int]]:
    """Input and output features of the linear layers whose path matches."""
    shapes = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and re.search(pattern, path):
            rows, columns = layer.weight.shape
            shapes[path] = (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)
    return shapes


def write_adapter(folder: Path, model: nn.Module, pattern: str, rank: int, seed: int = 0, **config: Any) -> Path:
    """Write an adapter for the linear layers of ``model`` whose path matches; large enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (num_in, num_out) in linear_layers(model, pattern).items():
        name = f"base_model.model.{path}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, num_in, generator=generator) * 0.3
        tensors[f"{name}.lora_B.weight"] = torch.randn(num_out, rank, generator=generator) * 0.3
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = list(linear_layers(model, pattern))
    entries = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**entries, **config}))
    return folder


def with_adapter(model: Any, folder: Path | None) -> Any:
    """A copy of ``model`` whose layers add what the adapter says, in float32, with plain hooks."""
    adapted = copy.deepcopy(model)
    if folder is None:
        return adapted
    from safetensors.torch import load_file

    config: Mapping[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in tensors:
        if name.endswith("lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            down, up = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            adapted.get_submodule(path).register_forward_hook(
                lambda layer, args, output, down=down, up=up: output + scale * (args[0] @ down.T) @ up.T
            )
    return adapted


def greedy(model: Any, ids: list[int]) -> list[int]:
    """Hugging Face's greedy answer to one prompt."""
    mask = torch.ones(1, len(ids), dtype=torch.int64)
    output = model.generate(
        torch.tensor([ids]), attention_mask=mask, max_new_tokens=NUM_NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    return output[0, len(ids) :].tolist()  # type: ignore[no-any-return]


def answers(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Our greedy answers."""
    return [ids.tolist() for ids in model.generate(prompts, generation_len=NUM_NEW_TOKENS, **options).generated_ids]
