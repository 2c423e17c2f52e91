"""A checkpoint's config with values that the caller sets: fewer layers, another length."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from QEfficient.errors import OptionError, nearest
from QEfficient.transformers.checkpoint.files import check_code, read_config
from QEfficient.transformers.checkpoint.load import LOAD_OPTIONS, load_config, without_machine
from QEfficient.transformers.checkpoint.loader_errors import loader_errors

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_LAYERS, _KINDS = "num_hidden_layers", "layer_types"


def changed_config(
    folder: Path, trust_remote_code: bool, config: PretrainedConfig | None, changes: Mapping[str, Any]
) -> PretrainedConfig:
    """The config to build a model with.

    Args:
        folder: the checkpoint's, with its config.
        trust_remote_code: as of :func:`QEfficient.transformers.checkpoint.load.load_config`.
        config: in place of the folder's; not changed.
        changes: values by name.

    Raises:
        OptionError: the config has no such value, or does not take it.
        UnsafeCheckpoint: the config is code that was not allowed.
    """
    with loader_errors(folder, "a file"):
        check_code(folder, read_config(folder), trust_remote_code)
    base = load_config(folder, trust_remote_code)
    chosen: PretrainedConfig = base if config is None else without_machine(copy.deepcopy(config))
    chosen.architectures = chosen.architectures or base.architectures
    for name, value in changes.items():
        if not hasattr(chosen, name) or name.startswith("_"):
            known = [*LOAD_OPTIONS, *chosen.to_dict(), *(chosen.attribute_map or {}), "trust_remote_code", "config"]
            raise OptionError(
                f"from_pretrained() has no option '{name}', and the config of {folder} has no such value."
                f"{nearest(name, known)}"
            )
        _set(chosen, name, value)
    return chosen


def _set(config: PretrainedConfig, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (TypeError, ValueError, StrictDataclassError) as error:
        why = " ".join(str(error.__cause__ or error).split())
        raise OptionError(f"{name}={value!r} is no value for the config: {why}") from error
    kinds = getattr(config, _KINDS, None)
    if name == _LAYERS and isinstance(kinds, list) and isinstance(value, int) and value < len(kinds):
        setattr(config, _KINDS, kinds[:value])
