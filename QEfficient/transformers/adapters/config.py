"""What ``adapter_config.json`` says of a LoRA adapter, as PEFT reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.files import contained, read_json, shortened

CONFIG_FILE = "adapter_config.json"

_NO_EFFECT = frozenset(
    {
        *("auto_mapping", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode"),
        *("layers_pattern", "layers_to_transform", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version"),
        *("qalora_group_size", "runtime_config", "target_modules", "task_type"),
    }
)
"""Entries that steer training, or that say what the names and shapes of the weights say again."""
_READ = frozenset(
    {
        *("alpha_pattern", "base_model_name_or_path", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r"),
        *("rank_pattern", "revision", "use_rslora"),
    }
)
_PLAIN_STARTS = (True, False, None, "eva", "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base model's weights as they are."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The entries of a LoRA adapter's config that decide what it computes."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Ranks of modules by a pattern of their names, where they differ from :attr:`rank`."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    has_stabilized_rank: bool = False
    """Whether the update is scaled by the square root of the rank (rsLoRA)."""
    base_model: str | None = None
    """The base model's folder, or its id on the Hub."""
    base_revision: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank of a module's update."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of a module's update."""
        rank = self.rank_of(module)
        return _by_pattern(self.alpha_pattern, module, self.alpha) / (sqrt(rank) if self.has_stabilized_rank else rank)


def _by_pattern(values: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as PEFT finds it."""
    return next((value for pattern, value in values.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)


def read_config(folder: Path) -> LoraConfig:
    """The config of the LoRA adapter in ``folder``.

    Raises:
        CorruptCheckpoint: it is not JSON object, or an entry has a wrong type.
        UnsafeCheckpoint: it is a link out of the folder.
        UnsupportedModel: the adapter is of another kind, or uses something that is not read; names the entry.
    """
    path = contained(folder, CONFIG_FILE)
    entries = read_json(path)
    _check_supported(path, entries)
    alpha = _number(path, entries, "lora_alpha", 8)
    rank = _number(path, entries, "r", 8)
    if rank != int(rank):
        raise _wrong(path, "r", "a whole number", entries["r"])
    return LoraConfig(
        rank=int(rank),
        alpha=alpha,
        rank_pattern={name: int(value) for name, value in _numbers(path, entries, "rank_pattern").items()},
        alpha_pattern=_numbers(path, entries, "alpha_pattern"),
        has_stabilized_rank=bool(entries.get("use_rslora")),
        base_model=_text(path, entries, "base_model_name_or_path"),
        base_revision=_text(path, entries, "revision"),
    )


def _check_supported(path: Path, entries: Mapping[str, Any]) -> None:
    if entries.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{path}: peft_type is {shortened(entries.get('peft_type'))}, and only LORA is read.")
    if entries.get("bias", "none") != "none":
        raise UnsupportedModel(
            f"{path}: bias={shortened(entries['bias'])} changes biases of the base model, which is not read. Train "
            "the adapter with bias='none', or merge it with PEFT's merge_and_unload() and load the result."
        )
    start = entries.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(plain, str) and start == plain) for plain in _PLAIN_STARTS):
        raise UnsupportedModel(
            f"{path}: init_lora_weights={shortened(start)} changes the base model's weights too, which is not read. "
            "Save the adapter with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    # By inclusion: an entry of a newer PEFT may change what the adapter computes.
    if unknown := sorted(name for name, value in entries.items() if value and name not in _NO_EFFECT | _READ):
        name = unknown[0]
        raise UnsupportedModel(
            f"{path}: {name}={shortened(entries[name])} is not supported. Merge the adapter with PEFT's "
            "merge_and_unload(), save the model and load that."
        )


def _wrong(path: Path, name: str, expected: str, value: object) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{path}: {name} must be {expected}, got {shortened(value)}. Download the adapter again.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _number(path: Path, entries: Mapping[str, Any], name: str, default: float) -> float:
    value = entries.get(name, default)
    if not _is_number(value):
        raise _wrong(path, name, "a number above 0", value)
    return float(value)


def _numbers(path: Path, entries: Mapping[str, Any], name: str) -> dict[str, float]:
    values = entries.get(name) or {}
    if not isinstance(values, Mapping) or not all(map(_is_number, values.values())):
        raise _wrong(path, name, "an object of numbers above 0", values)
    for pattern in values:
        try:
            re.compile(pattern)
        except re.error as error:
            raise _wrong(path, name, f"an object by patterns of module names ({error})", values) from error
    return {pattern: float(value) for pattern, value in values.items()}


def _text(path: Path, entries: Mapping[str, Any], name: str) -> str | None:
    value = entries.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(path, name, "text", value)
    return value or None
