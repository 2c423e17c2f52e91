"""Tiny models as GGUF files, by the rules of llama.cpp's converter: names, order of rows, norms, metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny_models
import torch
from gguf import GGMLQuantizationType as Type

_METADATA = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "vocab_size": "vocab_size",
}
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gpt2": "gpt2",
    "bloom": "bloom",
    "phi3": "phi3",
    "starcoder2": "starcoder2",
    "falcon": "falcon",
    "stablelm": "stablelm",
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
Choose = Callable[[str, tuple[int, ...]], Type]
"""From a tensor's name in the file and its shape to its type."""


def matrices(kind: Type) -> Choose:
    """Matrices of whole blocks in one type, all else in float32."""
    block = gguf.GGML_QUANT_SIZES[kind][0]

    def choose(name: str, shape: tuple[int, ...]) -> Type:
        return kind if len(shape) > 1 and "conv" not in name and not shape[-1] % block else Type.F32

    return choose


def packed(weight: np.ndarray, kind: Type, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bytes or floats to write, and the numbers that they stand for, as the format's library reads them.

    It cannot write all types: blocks of those are random, with scales that give numbers of the usual size.
    """
    if kind in (Type.F32, Type.F16):
        data = weight.astype({Type.F32: np.float32, Type.F16: np.float16}[kind])
        return data, data.astype(np.float32)
    try:
        data = gguf.quantize(weight.astype(np.float32), kind)
    except NotImplementedError:
        data = _random_blocks(weight.shape, kind, seed)
    return data, gguf.dequantize(data, kind).reshape(weight.shape)


def _random_blocks(shape: tuple[int, ...], kind: Type, seed: int) -> np.ndarray:
    elements, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // elements, num_bytes), np.uint8)
    for place, size in _HALVES[kind]:
        halves = (rng.uniform(0.5, 1.5, (*blocks.shape[:-1], 1)) * size).astype(np.float16)
        blocks[..., place : place + 2] = halves.view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


_HALVES = {
    Type.Q2_K: [(80, 0.01), (82, 0.01)],
    Type.Q3_K: [(108, 0.002)],
    Type.Q4_K: [(0, 0.0008), (2, 0.005)],
    Type.Q5_K: [(0, 0.0004), (2, 0.005)],
    Type.Q6_K: [(208, 0.0001)],
    Type.IQ4_NL: [(0, 0.002)],
    Type.IQ4_XS: [(0, 0.0001)],
    Type.IQ2_XXS: [(0, 0.001)],
}


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a head as llama.cpp rotates them: pairs beside each other."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _from_converter(model_type: str, name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """What the converter does with values."""
    if model_type == "llama" and name.endswith((".attn_q.weight", ".attn_k.weight")):
        return permuted(weight, config.num_attention_heads if "attn_q" in name else config.num_key_value_heads)
    if model_type == "gemma2" and name.endswith("norm.weight"):
        return weight + 1
    if model_type == "gpt2" and any(part in name for part in _TRANSPOSED):
        return weight.T
    if model_type == "bloom" and "attn_qkv" in name:
        heads = weight.reshape(config.n_head, 3, -1, *weight.shape[1:])
        return heads.swapaxes(0, 1).reshape(weight.shape)
    return weight


_TRANSPOSED = ("attn_qkv.weight", "ffn_down.weight", "ffn_up.weight", "attn_output.weight")


def _to_converter_and_back(model_type: str, name: str, config: Any, shape: tuple[int, ...]) -> np.ndarray:
    """For each element of a weight in the file, which element of the model's it is."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    return _from_converter(model_type if model_type != "gemma2" else "", name, numbers, config)


def save(
    model_type: str, path: Path, choose: Choose, *, with_tokenizer: bool = True, **changes: Any
) -> tuple[Path, Any]:
    """A GGUF file of a tiny model, and the Hugging Face model with the weights that it stands for."""
    model = tiny_models.causal_lm(model_type, **changes)
    config, architecture = model.config, ARCHITECTURES[model_type]
    writer = gguf.GGUFWriter(path, architecture)
    for attribute, key in _METADATA.items():
        value = config.to_dict().get(config.attribute_map.get(attribute, attribute))
        if isinstance(value, bool) or value is None:
            continue
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{architecture}.{key}", value)
    if getattr(config, "rope_parameters", None):
        writer.add_float32(f"{architecture}.rope.freq_base", config.rope_parameters["rope_theta"])
        part = config.rope_parameters.get("partial_rotary_factor", 1.0)
        width = config.hidden_size // config.num_attention_heads
        writer.add_uint32(f"{architecture}.rope.dimension_count", int(part * width))
    if with_tokenizer:
        add_tokenizer(writer)
    with torch.no_grad():
        for number, (name, parts) in enumerate(_by_file_name(model, architecture).items()):
            _add(writer, model_type, config, name, parts, choose, number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def _by_file_name(model: Any, architecture: str) -> dict[str, list[torch.Tensor]]:
    """The model's parameters by their names in the file: views, so that they can be written into."""
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tied = getattr(model, "_tied_weights_keys", None) if model.config.tie_word_embeddings else ()
    tensors: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.state_dict().items():
        if name in (tied or ()):
            continue
        layer = name.split(".experts.")[0].split(".")[-2] if ".experts." in name else ""
        if name.endswith("experts.gate_up_proj"):
            gate, up = parameter.chunk(2, 1)
            tensors[f"blk.{layer}.ffn_gate_exps.weight"] = [gate]
            tensors[f"blk.{layer}.ffn_up_exps.weight"] = [up]
        elif name.endswith("experts.down_proj"):
            tensors[f"blk.{layer}.ffn_down_exps.weight"] = [parameter]
        else:
            stem, _, end = name.rpartition(".")
            mapped = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
            assert mapped is not None, name
            tensors.setdefault(f"{mapped}.{end}", []).append(parameter)
    return tensors


def _add(
    writer: Any, model_type: str, config: Any, name: str, parts: list[torch.Tensor], choose: Choose, number: int
) -> None:
    (parameter,) = parts
    values = parameter.numpy()
    stored = np.ascontiguousarray(_from_converter(model_type, name, values, config)).astype(np.float32)
    kind = choose(name, stored.shape)
    data, dense = packed(stored, kind, number)
    is_block = kind not in (Type.F32, Type.F16)
    writer.add_tensor(name, data, raw_dtype=kind if is_block else None)
    back = _to_converter_and_back(model_type, name, config, values.shape)
    offset = 1 if model_type == "gemma2" and name.endswith("norm.weight") else 0
    flat = np.empty(values.size, np.float32)
    flat[back.reshape(-1)] = dense.reshape(-1) - np.float32(offset)
    parameter.copy_(torch.from_numpy(flat.reshape(values.shape)))


def add_tokenizer(writer: Any) -> None:
    """The tokenizer of the tiny models."""
    state = __import__("json").loads(tiny_models.tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number < 3 else 1 for number in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]])
    for name, token in (("bos", 1), ("eos", 2), ("padding", 0)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
