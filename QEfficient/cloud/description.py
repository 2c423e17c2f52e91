"""Describes a model, from an instance without weights."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.cloud.flag_words import as_flag
from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.targets import TARGETS, Target

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel
    from QEfficient.transformers.checkpoint.config import OpenedConfig
    from QEfficient.transformers.lowering.cache_spec import StateSpec

_TOKEN_BYTES = 8


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause garbage collection while importing: it takes a third of the time and frees nothing. No effect once torch
    is imported."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings about missing kernels: nothing is computed here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def describe(
    opened: OpenedConfig, load_options: Mapping[str, Any], lens: Mapping[str, int], has_packed_weights: bool
) -> dict[str, Any]:
    """Describe a model, except for what depends on this machine and on the content of weight files.

    Args:
        opened: its config.
        load_options: of ``from_pretrained``.
        lens: see :func:`~QEfficient.cloud.stored_description.describe_model`.
        has_packed_weights: whether it is quantised and its weights are here.
    """
    from QEfficient.transformers.lowering.infer_cache_spec import refusing

    with _without_collecting(), _quiet_transformers():
        model = _outline(opened, load_options)
        with refusing(model.model):
            description = _described(model, lens)
        description["why_not_loaded"] = _why_not_loaded(opened.folder)
        if has_packed_weights and description["why_not_loaded"] is None:
            from QEfficient.cloud.packed_weights import weights_on_targets

            trust = bool(load_options.get("trust_remote_code"))
            for name, weights in weights_on_targets(model.hf_auto_class(), opened.folder, trust).items():
                description["targets"][name]["weights"] = weights
        return description


def _why_not_loaded(folder: Path) -> str | None:
    """Why the quantised weights of a checkpoint are not read here; None where they are, or there are none."""
    from QEfficient.transformers.quantizers.auto import read_scheme

    try:
        read_scheme(folder)
    except UnsupportedModel as error:
        return str(error)
    return None


def _outline(opened: OpenedConfig, load_options: Mapping[str, Any]) -> QEFFBaseModel:
    from QEfficient.tasks import auto_class_for_config
    from QEfficient.transformers.checkpoint.load import load_config
    from QEfficient.transformers.checkpoint.meta_model import outline

    trust = bool(load_options.get("trust_remote_code"))
    config = load_config(opened.folder, trust)
    chosen = auto_class_for_config(config)
    if "pooling" in load_options and "pooling" not in chosen.load_arguments:
        raise OptionError(f"{as_flag('pooling')} is for encoders, and {opened.folder} is not one.")
    return chosen(outline(chosen.hf_auto_class(), config, opened.folder, trust))


def _described(model: QEFFBaseModel, lens: Mapping[str, int]) -> dict[str, Any]:
    parameters = list(model.model.parameters())
    return {
        "architecture": model.model_name,
        "task": model.task,
        "num_parameters": sum(p.numel() for p in parameters),
        "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        **_max_positions(model),
        **(_layers(model, lens) if model.keeps_state else {}),
        "targets": {name: _on_target(model, target) for name, target in TARGETS.items()},
    }


def _max_positions(model: QEFFBaseModel) -> dict[str, int | None]:
    limits = model.max_lens()
    names = [name for name in _POSITIONS if hasattr(model.options_class(), name)]
    return {_POSITIONS[name]: limits.get(name) for name in names}


_POSITIONS = {"ctx_len": "max_positions", "seq_len": "max_positions", "encoder_ctx_len": "max_encoder_positions"}


def _layers(model: QEFFBaseModel, lens: Mapping[str, int]) -> dict[str, Any]:
    try:
        specs = model.state_specs() or []
    except UnsupportedModel as error:
        return {"layers": None, "why_no_layers": str(error), "recomputes": None, "state": None}
    layers = [{"num_layers": count, **_layer(spec)} for spec, count in Counter(specs).items()]
    return {"layers": layers, "recomputes": _why_recomputed(model.model, specs), "state": _state(specs, lens)}


def _layer(spec: StateSpec) -> dict[str, Any]:
    tensors = {tensor.name: list(tensor.shape) for tensor in spec.tensors}
    return {"kind": spec.kind, "window": spec.window, "tensors": tensors}


def _why_recomputed(model: Any, specs: list[StateSpec]) -> str | None:
    from QEfficient.transformers.quirks import why_recomputed

    if not any(spec.kind == "tokens" for spec in specs):
        return None
    return why_recomputed(model) or "its layers keep nothing in transformers' cache"


def _state(specs: list[StateSpec], lens: Mapping[str, int]) -> dict[str, Any]:
    """Bytes of state; those of a recurrent layer are per slot and do not depend on its length."""
    from QEfficient.transformers.lowering.cache_spec import ENCODER_CTX_LEN, ROWS, STATE_VALUE_BYTES, axis_sizes

    sizes = {**axis_sizes(specs, lens["ctx_len"]), ENCODER_CTX_LEN: lens["encoder_ctx_len"]}
    growth: Counter[str] = Counter()
    for spec in specs:
        value_bytes = _TOKEN_BYTES if spec.kind == "tokens" else STATE_VALUE_BYTES
        for tensor in spec.tensors:
            axis = next((size for size in tensor.shape if isinstance(size, str) and size != ROWS), ROWS)
            growth[axis] += tensor.num_values(dict.fromkeys(sizes, 1)) * value_bytes
    fixed, text = growth.pop(ROWS, 0), growth.get(ENCODER_CTX_LEN)
    return {
        "value_bytes": STATE_VALUE_BYTES,
        "bytes_per_token": growth.total() - (text or 0),
        "fixed_bytes_per_slot": fixed,
        "ctx_len": lens["ctx_len"],
        **({"bytes_per_encoder_token": text, "encoder_ctx_len": lens["encoder_ctx_len"]} if text is not None else {}),
        "bytes_per_slot": fixed + sum(count * sizes[axis] for axis, count in growth.items()),
    }


def _on_target(model: QEFFBaseModel, target: Target) -> dict[str, Any]:
    try:
        choice = model.choose_lowering(target)
    except UnsupportedModel as error:
        return {"lowering": None, "refused": {"all": str(error)}}
    return {"lowering": choice.lowering, "refused": choice.refused}
