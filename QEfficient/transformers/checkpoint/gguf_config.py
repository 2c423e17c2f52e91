"""The config that a GGUF file's metadata stands for: transformers' reading of it, and what that leaves out.

Metadata that changes what the model computes and that nobody reads is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.files import shortened
from QEfficient.transformers.checkpoint.gguf_header import GGUFHeader, GGUFTensor, damaged
from QEfficient.transformers.checkpoint.loader_errors import loader_errors

Header = tuple[Path, GGUFHeader]
_MAX_FACTORS = 1 << 12
_SIZES = ("block_count", "embedding_length")
_LATER_KEYS = {
    "context_length": "n_positions",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "logit_scale": "logit_scale",
}
"""Metadata that transformers 5.23 leaves out, by the attribute of configs that have it."""
_NOT_READ: dict[str, tuple[object, ...]] = {
    "attention.scale": (0.0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
}
"""Metadata that nobody reads, and the values with which it changes nothing."""
_SCALED_BY_HEADS = (46, 62)
"""Layers of the Gemmas whose attention is scaled by the width of all heads: llama.cpp tells them by it too."""
_WIDTHS = ("embedding_length", "attention.head_count")


def gguf_config(files: Sequence[Header]) -> dict[str, Any]:
    """
    Args:
        files: that belong together, with their headers.

    Returns:
        As in ``config.json``.

    Raises:
        CorruptCheckpoint: the metadata has a value that no model has.
        UnsupportedModel: transformers reads no such architecture, or nobody a part of the metadata.
    """
    from transformers import AutoConfig

    path, header = files[0]
    tensors = {name: tensor for _, each in files for name, tensor in each.tensors.items()}
    _check(path, header, tensors)
    with loader_errors(path, "the metadata", unknown=(ValueError, KeyError, NotImplementedError)):
        values = _as_transformers_reads(path, header, tensors)
        model_type = values.pop("model_type")
        known = AutoConfig.for_model(model_type).to_dict()
        values = _scalars(path, _left_out(header, known, tensors) | values, known)
        values |= _rope(files, known.get("rope_parameters") or {})
        config: dict[str, Any] = AutoConfig.for_model(model_type, **values).to_dict()
    config["tie_word_embeddings"] = values["tie_word_embeddings"]  # T5's class forgets it
    if "scale_decoder_outputs" in config:
        config["scale_decoder_outputs"] = values["tie_word_embeddings"]
    config["architectures"] = config.get("architectures") or _architectures(model_type)
    config["dtype"] = _dtype(tensors)
    return config


def _check(path: Path, header: GGUFHeader, tensors: Mapping[str, GGUFTensor]) -> None:
    """Before anything is made of the metadata."""
    if not tensors:
        raise damaged(path, "it has no tensors")
    prefix = f"{header.architecture}."
    values = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    for key in _SIZES:
        if key not in values:
            raise CorruptCheckpoint(f"{path}: the metadata has no {prefix}{key}. Download the file again.")
    for key, value in values.items():
        if isinstance(value, float) and (
            not math.isfinite(value) or (key.endswith(("base", "epsilon")) and value <= 0)
        ):
            raise CorruptCheckpoint(f"{path}: {prefix}{key} is {value}, expected a positive number. Download it again.")
        if key in (*_SIZES, *_WIDTHS) and type(value) is int and value < 1:
            raise CorruptCheckpoint(f"{path}: {prefix}{key} is {value}, expected at least 1. Download it again.")
        if key in _NOT_READ and value not in _NOT_READ[key]:
            raise UnsupportedModel(
                f"{path}: {prefix}{key} is {shortened(value)}, which this version does not read, and leaving it out "
                "would make another model. Take the model's original checkpoint."
            )
    experts, used = values.get("expert_count"), values.get("expert_used_count")
    if isinstance(experts, int) and isinstance(used, int) and not 1 <= used <= experts and experts:
        raise CorruptCheckpoint(
            f"{path}: {prefix}expert_used_count is {used}, expected 1 to expert_count, which is {experts}."
        )


def _as_transformers_reads(path: Path, header: GGUFHeader, tensors: Mapping[str, GGUFTensor]) -> dict[str, Any]:
    """The config as transformers reads it, with what depends on all files."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_config
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if header.architecture in GGUF_CONFIG_ARCHS:
        values: dict[str, Any] = get_gguf_config(header.metadata, tuple(tensors))
    else:
        values = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
        is_tied_always = values["tie_word_embeddings"] and "output.weight" in header.tensors
        values["tie_word_embeddings"] = is_tied_always or "output.weight" not in tensors
    values = {name: value for name, value in values.items() if not name.startswith("_")}
    end_of_turn = header.metadata.get("tokenizer.ggml.eot_token_id")
    ends = values.get("eos_token_id")
    if isinstance(end_of_turn, int) and isinstance(ends, int) and end_of_turn != ends:
        values["eos_token_id"] = [ends, end_of_turn]
    if "vocab_size" not in values and "token_embd.weight" in tensors:
        values["vocab_size"] = tensors["token_embd.weight"].shape[0]
    return values


def _left_out(header: GGUFHeader, known: Mapping[str, Any], tensors: Mapping[str, GGUFTensor]) -> dict[str, Any]:
    """What the metadata and the tensors say of attributes that the config's class has."""
    metadata = {key: header.metadata.get(f"{header.architecture}.{key}") for key in _LATER_KEYS}
    values = {_LATER_KEYS[key]: value for key, value in metadata.items() if value is not None}
    if "query_pre_attn_scalar" in known:
        by_heads = header.metadata.get(f"{header.architecture}.block_count") in _SCALED_BY_HEADS
        width, heads = (header.metadata.get(f"{header.architecture}.{key}") for key in _WIDTHS)
        values["query_pre_attn_scalar"] = width // heads if by_heads and width and heads else values.get("head_dim")
    if "feed_forward_proj" in known:
        has_gate = any(".ffn_gate." in name for name in tensors)
        values["feed_forward_proj"] = "gated-gelu" if has_gate else "relu"
    values = {name: value for name, value in values.items() if name in known and value is not None}
    return values | _rotary(header, known.get("rope_parameters") or {}, values.get("head_dim"))


def _rotary(header: GGUFHeader, known: Mapping[str, Any], head_dim: int | None) -> dict[str, Any]:
    """The base of rotary frequencies, and the part of a head that is rotated."""
    base, num_rotated, width, num_heads = (
        header.metadata.get(f"{header.architecture}.{key}")
        for key in ("rope.freq_base", "rope.dimension_count", *_WIDTHS)
    )
    values = {"rope_theta": base} if base is not None and "rope_theta" in known else {}
    if head_dim is None and isinstance(width, int) and isinstance(num_heads, int):
        head_dim = width // num_heads
    if "partial_rotary_factor" in known and num_rotated and head_dim:
        values["partial_rotary_factor"] = num_rotated / head_dim
    return values


def _scalars(path: Path, values: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """One number for all layers where the config's class has one, and the metadata one for each layer.

    Raises:
        UnsupportedModel: they differ.
    """
    for name, value in values.items():
        if isinstance(value, list) and isinstance(known.get(name), int) and not name.endswith("_token_id"):
            if len(set(value)) != 1:
                raise UnsupportedModel(
                    f"{path}: {name} differs from layer to layer ({shortened(value)}), and transformers has one for "
                    "all. Take the model's original checkpoint."
                )
            values[name] = value[0]
    return values


def _rope(files: Sequence[Header], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are scaled, which transformers 5.23 leaves out.

    Raises:
        UnsupportedModel: in a way that is not known.
    """
    path, header = files[0]
    scaling = {key: header.metadata.get(f"{header.architecture}.rope.scaling.{key}") for key in _SCALING}
    context = scaling["original_context_length"] or header.metadata.get(f"{header.architecture}.context_length")
    # The config's class knows the factors where they differ by kind of layer.
    is_nested = any(isinstance(value, Mapping) for value in defaults.values())
    factors = {} if is_nested else _factors(files)
    if factors:
        rope: dict[str, Any] = {"rope_type": "longrope", **factors, "original_max_position_embeddings": context}
        if factors["short_factor"] == factors["long_factor"]:
            rope |= {"factor": 1.0, "attention_factor": 1.0}
        elif scaling["attn_factor"] is not None:
            rope["attention_factor"] = scaling["attn_factor"]
        return {"rope_scaling": rope, "original_max_position_embeddings": context}
    factor = scaling["factor"] or header.metadata.get(f"{header.architecture}.rope.scale_linear")
    kind = scaling["type"] or ("linear" if factor else "none")
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModel(
            f"{path}: {header.architecture}.rope.scaling.type is '{kind}', and this version reads linear, yarn, and "
            "factors in tensors. Take the model's original checkpoint."
        )
    if kind == "none" or not factor or factor == 1.0:
        return {}
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    return {"rope_scaling": rope | {_YARN[key]: scaling[key] for key in _YARN if scaling[key] is not None}}


_YARN = {
    "attn_factor": "attention_factor",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_SCALING = ("type", "factor", "original_context_length", *_YARN)


def _factors(files: Sequence[Header]) -> dict[str, list[float]]:
    """What divides rotary frequencies, of short and of long texts; empty if nothing does."""
    stored = {
        name.removesuffix(".weight"): _read(path, header, name)
        for path, header in files
        for name in ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
        if name in header.tensors
    }
    short = stored.get("rope_freqs", stored.get("rope_factors_short"))
    long = stored.get("rope_freqs", stored.get("rope_factors_long"))
    if short is None or long is None or all(factor == 1.0 for factor in (*short, *long)):
        return {}
    return {"short_factor": short, "long_factor": long}


def _read(path: Path, header: GGUFHeader, name: str) -> list[float]:
    tensor = header.tensors[name]
    if tensor.type != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > _MAX_FACTORS:
        raise damaged(path, f"'{name}' is {tensor.type} of {tensor.shape}, expected a row of F32")
    values = np.fromfile(path, "<f4", tensor.shape[0], offset=header.data_offset + tensor.begin)
    if not np.isfinite(values).all() or not (values > 0).all():
        raise CorruptCheckpoint(f"{path}: '{name}' holds factors that are not positive. Download the file again.")
    return [float(value) for value in values]


def _architectures(model_type: str) -> list[str] | None:
    """The class with the head that a file has."""
    from transformers.models.auto import modeling_auto

    tables = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    return next(([str(table[model_type])] for table in tables if model_type in table), None)


def _dtype(tensors: Mapping[str, GGUFTensor]) -> str:
    """Of the elements: a file's half-precision type beside float32 norms; blocks are exact in float32 only."""
    types = {tensor.type for tensor in tensors.values()}
    if types - {"F32", "F16", "BF16"}:
        return "float32"
    return "bfloat16" if "BF16" in types else "float16" if "F16" in types else "float32"
