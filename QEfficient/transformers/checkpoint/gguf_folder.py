"""A GGUF file as a checkpoint's folder: its config and tokenizer as transformers reads them, and links to the weights.

The folder is made once for a file and kept beside the store. Whoever opens it need not know where it came from, but for
the weights: their names and order are llama.cpp's (:mod:`QEfficient.transformers.quantizers.gguf_weights`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, UnsupportedModel
from QEfficient.progress import stage
from QEfficient.store.linked_folders import linked_folder, links_in
from QEfficient.transformers.checkpoint.files import identity, is_regular
from QEfficient.transformers.checkpoint.gguf_header import GGUFHeader, GGUFTensor, damaged, read_gguf_header
from QEfficient.transformers.checkpoint.loader_errors import loader_errors

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_FORMAT = 1
"""Changes with what is written into a folder."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_FACTORS = 1 << 12
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


def linked_weights(folder: Path) -> list[Path]:
    """The GGUF files of a folder that was made here; none if it was not."""
    return [file for file in links_in(folder) if file.suffix == SUFFIX]


def gguf_in(folder: Path) -> Path | None:
    """The model's GGUF file in a folder without other weights; None if there is none.

    Raises:
        CheckpointNotFound: there are several models.
    """
    files = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("mmproj"))
    models = {(match["stem"] if (match := _SHARD.fullmatch(path.name)) else path.name): path for path in files[::-1]}
    if len(models) > 1:
        listed = ", ".join(sorted(path.name for path in models.values())[:6])
        raise CheckpointNotFound(f"{folder} has several GGUF models: {listed}. Choose one with gguf_file='NAME'.")
    return next(iter(models.values()), None)


def shard_pattern(name: str) -> str:
    """A pattern for the names of the files that belong together with ``name``."""
    match = _SHARD.fullmatch(name)
    return name if match is None else f"{match['stem']}-*-of-{match['count']}{SUFFIX}"


def gguf_checkpoint(path: Path) -> Path:
    """The folder of the checkpoint that a GGUF file stands for.

    Raises:
        CheckpointNotFound: one of several files that belong together is missing.
        CorruptCheckpoint: a file is damaged.
        UnsupportedModel: transformers reads no such architecture from GGUF.
    """
    paths = [shard.absolute() for shard in _shards(path)]
    files = [identity(shard) for shard in paths]
    versions = {name: version(name) for name in ("transformers", "gguf", "tokenizers")}

    def build(folder: Path) -> None:
        headers = [read_gguf_header(shard) for shard in paths]
        with stage("Reading", path.name):
            _write_config(folder, paths, headers)
            _write_tokenizer(folder, paths[0], headers[0])

    return linked_folder(paths, {"format": _FORMAT, "files": files, "versions": versions}, build)


def _shards(path: Path) -> list[Path]:
    if not path.is_file() or not is_regular(path):
        raise CheckpointNotFound(f"There is no file {path}.")
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    shards = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}{SUFFIX}") for number in range(1, count + 1)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointNotFound(f"{path.parent} lacks {missing[0]}, which belongs to {path.name}. Download it too.")
    return shards


def _write_config(folder: Path, paths: Sequence[Path], headers: Sequence[GGUFHeader]) -> None:
    from transformers import AutoConfig

    header, tensors = headers[0], {name: tensor for each in headers for name, tensor in each.tensors.items()}
    with loader_errors(paths[0], "the metadata", unknown=(ValueError, KeyError, NotImplementedError)):
        values = _config_of(paths[0], header, tensors)
        model_type = values.pop("model_type")
        known = AutoConfig.for_model(model_type)
        values = _left_out(header, known.to_dict()) | values
        values |= _rope(paths, headers, known.rope_parameters if hasattr(known, "rope_parameters") else None)
        config = AutoConfig.for_model(model_type, **values).to_dict()
    config["architectures"] = config.get("architectures") or _architectures(model_type)
    config["dtype"] = _dtype(tensors)
    config["quantization_config"] = {"quant_method": "gguf", "architecture": header.architecture}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _architectures(model_type: str) -> list[str] | None:
    """The class with the head that a file has."""
    from transformers.models.auto import modeling_auto

    tables = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    return next(([str(table[model_type])] for table in tables if model_type in table), None)


def _left_out(header: GGUFHeader, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata says of attributes that the config's class has."""
    metadata = {key: header.metadata.get(f"{header.architecture}.{key}") for key in _LATER_KEYS}
    values = {_LATER_KEYS[key]: value for key, value in metadata.items() if value is not None}
    if "query_pre_attn_scalar" in known:  # llama.cpp knows it by the number of layers
        by_heads = header.metadata.get(f"{header.architecture}.block_count") in _SCALED_BY_HEADS
        width, heads = (header.metadata.get(f"{header.architecture}.{key}") for key in _WIDTHS)
        values["query_pre_attn_scalar"] = width // heads if by_heads and width and heads else values.get("head_dim")
    values = {name: value for name, value in values.items() if name in known and value is not None}
    return values | _rotary(header, known.get("rope_parameters") or {}, values.get("head_dim"))


def _rotary(header: GGUFHeader, known: Mapping[str, Any], head_dim: int | None) -> dict[str, Any]:
    """The base of rotary frequencies, and the part of a head that is rotated."""
    base, num_rotated, width, num_heads = (
        header.metadata.get(f"{header.architecture}.{key}")
        for key in ("rope.freq_base", "rope.dimension_count", *_WIDTHS)
    )
    values = {"rope_theta": base} if base is not None and "rope_theta" in known else {}
    if head_dim is None and width and num_heads:
        head_dim = width // num_heads
    if "partial_rotary_factor" in known and num_rotated and head_dim:
        values["partial_rotary_factor"] = num_rotated / head_dim
    return values


_SCALED_BY_HEADS = (46, 62)
_WIDTHS = ("embedding_length", "attention.head_count")


def _config_of(path: Path, header: GGUFHeader, tensors: Mapping[str, GGUFTensor]) -> dict[str, Any]:
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
    return values


def _rope(paths: Sequence[Path], headers: Sequence[GGUFHeader], defaults: object) -> dict[str, Any]:
    """How positions are scaled, which transformers 5.23 leaves out.

    Raises:
        UnsupportedModel: in a way that is not known.
    """
    architecture, metadata = headers[0].architecture, headers[0].metadata
    if isinstance(defaults, Mapping) and any(isinstance(value, Mapping) for value in defaults.values()):
        factors: dict[str, list[float]] = {}  # those of each kind of layer are known to the config's class
    else:
        factors = _factors(paths, headers)
    scaling = {key: metadata.get(f"{architecture}.rope.scaling.{key}") for key in _SCALING}
    kind, factor = scaling["type"] or "none", scaling["factor"]
    context = scaling["original_context_length"] or metadata.get(f"{architecture}.context_length")
    if factors:
        rope: dict[str, Any] = {"rope_type": "longrope", **factors, "original_max_position_embeddings": context}
        if "rope_freqs" in _names(headers):
            rope |= {"factor": 1.0, "attention_factor": 1.0}
        elif scaling["attn_factor"] is not None:
            rope["attention_factor"] = scaling["attn_factor"]
        return {"rope_scaling": rope, "original_max_position_embeddings": context}
    if kind == "none" or factor is None:
        return {}
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if kind == "yarn":
        rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
        if scaling["attn_factor"] is not None:
            rope["attention_factor"] = scaling["attn_factor"]
        return {"rope_scaling": rope}
    raise UnsupportedModel(
        f"{paths[0]}: {architecture}.rope.scaling.type is '{kind}', and this version reads linear, yarn."
    )


_SCALING = ("type", "factor", "original_context_length", "attn_factor")


def _names(headers: Sequence[GGUFHeader]) -> set[str]:
    return {name.removesuffix(".weight") for header in headers for name in header.tensors}


def _factors(paths: Sequence[Path], headers: Sequence[GGUFHeader]) -> dict[str, list[float]]:
    """What divides rotary frequencies, of short and of long texts; empty if nothing does."""
    stored = {
        name.removesuffix(".weight"): _read(path, header, name)
        for path, header in zip(paths, headers, strict=True)
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


def _dtype(tensors: Mapping[str, GGUFTensor]) -> str:
    """Of the elements: a file's half-precision type beside float32 norms; blocks are exact in float32 only."""
    types = {tensor.type for tensor in tensors.values()}
    if types - {"F32", "F16", "BF16"}:
        return "float32"
    return "bfloat16" if "BF16" in types else "float16" if "F16" in types else "float32"


def _write_tokenizer(folder: Path, path: Path, header: GGUFHeader) -> None:
    if "tokenizer.ggml.tokens" not in header.metadata:
        return
    from transformers import AutoTokenizer

    with loader_errors(path, "the tokenizer", unknown=(ValueError, KeyError, NotImplementedError)):
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
