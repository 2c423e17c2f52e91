"""Options of ``compile`` and ``export`` that scripts for the card pass, and that are another option here, a flag of the
card's compiler, or nothing that has to be said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from QEfficient.compile.qaic_compiler import raw_flag_names
from QEfficient.errors import OptionError
from QEfficient.no_effect import remarks_of
from QEfficient.options import CompileOptions
from QEfficient.targets import Target

OptionsT = TypeVar("OptionsT", bound=CompileOptions)
logger = logging.getLogger(__name__)

_SYNONYMS = {
    "mdp_ts_num_devices": "num_devices",
    "mxfp6": "mxfp6_matmul",
    "mxint8": "mxint8_kv_cache",
    "prompt_len": "prefill_seq_len",
}
_NO_EFFECT: dict[str, tuple[tuple[object, ...], str]] = {
    "compile_only": ((), "the compiler only compiles"),
    "custom_io_file_path": ((None,), "it is written from the options"),
    "dynamo": ((False,), "models are always exported in this way"),
    "enable_chunking": ((False,), "prompts longer than prefill_seq_len always run in chunks"),
    "layerwise": ((False,), "weights are streamed, layer by layer"),
    "layerwise_window_size": ((1,), "weights are streamed, layer by layer"),
    "mdp_compiler_dump_path": ((None,), "partitions follow from the graph"),
    "moe_prefill_packed_chunk_size": ((256,), "experts run in the way that the graph has"),
    "offload_pt_weights": ((True, False), "weights are read when they are needed"),
    "retain_full_kv": ((None, False), "layers with a window keep as many slots as it has, which is all they attend to"),
    "specialization_module_name": ((None,), "specializations are named by their step"),
}
"""Name -> values that mean what happens anyway, and why others change nothing."""
_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "artifacts": ((False,), "dry_run=True writes every file that the compiler reads, and its command"),
    "decode_only": ((False,), "use prefill_only=False"),
    "height": ((None,), "use img_size, the side of a square, where the processor does not settle the size"),
    "io_encrypt": ((None, False), "use compiler_options={'io_encrypt': ...}"),
    "kv_cache_prefix": ((None, ""), "state is named past_key.i and past_value.i; leave it out"),
    "lang_onnx_path": ((None,), "the graphs of a model come from the store: leave it out"),
    "mdp_strategy": ((None, "onnx"), "give a partition file as mdp_load_partition_config"),
    "skip_lang": ((None, False), "a package has both graphs: compile()['vision_qpc_path'] is that of the images"),
    "skip_vision": (
        (None, False),
        "a package has both graphs: compile()['lang_qpc_path'] is that of the text",
    ),
    "specializations": (
        (None,),
        "they follow from prefill_seq_len, ctx_len and the batch sizes, and dry_run=True shows them",
    ),
    "vision_onnx_path": ((None,), "the graphs of a model come from the store: leave it out"),
    "width": ((None,), "use img_size, the side of a square, where the processor does not settle the size"),
}
"""Name -> values that mean what happens anyway, and what to use instead of others."""


def accepted(cls: type[CompileOptions], passed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A caller's options by the names of ``cls``, and flags of the card's compiler; says once what has no effect. What
    is not known stays.

    Raises:
        OptionError: one is refused, or contradicts another.
    """
    known = {item.name for item in fields(cls)}
    values = {name: value for name, value in passed.items() if name in known}
    if values.get("num_devices") == 0 and type(values["num_devices"]) is int:
        del values["num_devices"]  # upstream's for a device group that nobody names
    flags: dict[str, Any] = {}
    ignored: dict[str, str] = {}
    for name, value in passed.items():
        if name in known:
            continue
        if name in _SYNONYMS or name == "device_group":
            _add(values, name, value)
        elif name in _NO_EFFECT:
            usual, why = _NO_EFFECT[name]
            if value not in usual:
                ignored[name] = why
        elif name in _REFUSED:
            usual, instead = _REFUSED[name]
            if value not in usual:
                raise OptionError(f"{name}={value!r}: {instead}.")
        elif name in raw_flag_names():
            flags[name] = value
        else:
            values[name] = value
    for remark in remarks_of(ignored):
        logger.warning(remark)
    return values, flags


def with_flags(options: OptionsT, flags: Mapping[str, Any], target: Target) -> OptionsT:
    """``options`` with flags of the card's compiler, where the target is a card."""
    if flags and target.has_card_numerics:
        return replace(options, compiler_options={**flags, **options.compiler_options})
    if flags:
        logger.warning("%s: no effect on target '%s'.", ", ".join(sorted(flags)), target.name)
    return options


def _add(values: dict[str, Any], name: str, value: Any) -> None:
    """Add an option under our name for it."""
    ours = _SYNONYMS.get(name, "num_devices")
    if name == "device_group":
        if value is None:
            return
        value = len(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if values.setdefault(ours, value) != value:
        raise OptionError(f"{name}={value!r} and {ours}={values[ours]!r} are the same option: give one.")
