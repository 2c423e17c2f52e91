"""Checkpoints of real shapes with random weights, made on this machine.

Speed depends on sizes and not on what a model has learned, so nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DONE = "complete"
_PAD, _END = 0, 1


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A causal LM's architecture and sizes."""

    name: str
    model_type: str
    dtype: str = "bfloat16"
    """What the checkpoint is stored in."""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return int(self.config["vocab_size"])


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="tiny",
            model_type="qwen2",
            dtype="float32",
            config={
                "vocab_size": 512,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "initializer_range": 0.2,  # so that answers differ, and a system that computes another model shows
                "tie_word_embeddings": False,
            },
        ),
        Shape(
            name="qwen2.5-0.5b",
            model_type="qwen2",
            config={
                "vocab_size": 151936,
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "max_position_embeddings": 32768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True,
            },
        ),
        Shape(
            name="llama-3.2-1b",
            model_type="llama",
            config={
                "vocab_size": 128256,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "max_position_embeddings": 131072,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True,
            },
        ),
    )
}


def make_checkpoint(shape: Shape, folder: Path) -> Path:
    """Write the shape's checkpoint into ``folder``, unless a whole one is there. Takes a minute for a billion weights.

    Returns:
        ``folder``, with ``config.json``, ``model.safetensors`` and a tokenizer that knows every id.
    """
    recipe = json.dumps([shape.model_type, shape.dtype, shape.config], sort_keys=True)
    mark = folder / DONE
    if mark.is_file() and mark.read_text() == recipe:
        return folder
    mark.unlink(missing_ok=True)
    _model(shape).save_pretrained(folder)
    byte_tokenizer(shape.vocab_size).save_pretrained(folder)
    mark.write_text(recipe)
    return folder


def num_weights(checkpoint: Path) -> int:
    """How many numbers a checkpoint holds, read from the headers of its files."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _model(shape: Shape) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": _END, "eos_token_id": _END, "pad_token_id": _PAD}
    config = AutoConfig.for_model(shape.model_type, **shape.config, **special)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))


def byte_tokenizer(vocab_size: int, names: Mapping[str, int] | None = None) -> Any:
    """Bytes and filler: the peers want a tokenizer that can spell every id, though prompts are given as ids.

    ``names``: special tokens in the place of filler, and their ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"filler{i}" for i in range(len(tokens), vocab_size)]
    for name, token in (names or {}).items():
        tokens[token] = name
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<end>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, extra_special_tokens=[*names] if names else []
    )
