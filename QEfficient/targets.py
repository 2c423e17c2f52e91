"""The targets: what each can do, as data. Stages ask the row, never the name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from QEfficient.errors import OptionError, TargetUnavailable, nearest

LoweringName = Literal["retained", "paged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One place where models run.

    The compiler and the session of a target are modules that are imported when they are needed, so that listing the
    targets costs nothing and needs no SDK.
    """

    name: str
    description: str
    lowerings: tuple[LoweringName, ...]
    """Fastest first."""
    ignored_options: frozenset[str]
    """Options of other targets that change nothing here: accepted, and reported once."""
    refused_options: dict[str, str]
    """Options that this target cannot honour, and what to use instead."""
    prefill_seq_len: int
    """Default size of a prompt chunk."""
    has_static_shapes: bool
    """Whether each step must have one of the compiled shapes, so that a batch has a fixed number of rows."""
    compiler: str
    """Module with ``check``, ``key_ingredients`` and ``compile_onnx``."""
    session: str
    """Module with ``open_session`` and ``open_encoder``; it imports neither torch nor transformers."""
    why_unavailable: Callable[[], str | None]
    """What is missing on this machine to compile for it, or None."""
    graph_transforms: tuple[str, ...] = ()
    """Rewrites of the ONNX graph, by their module's name in ``exporter/transforms``, in this order."""
    sdk_root: Callable[[], Path] | None = None
    """Where its SDK is; None: where the SDK is usually installed."""


def _later(module: str, function: str) -> Callable[[], Any]:
    """A function whose module is imported when it is called."""
    return lambda: getattr(import_module(module), function)()


_CLOUD_AI_100 = Target(
    name="cloud-ai-100",
    description="Qualcomm Cloud AI 100",
    lowerings=("retained",),
    ignored_options=frozenset({"num_threads"}),
    refused_options={"weight_format": "the card's weights are fp16, or MXFP6 with mxfp6_matmul=True"},
    prefill_seq_len=32,
    has_static_shapes=True,
    graph_transforms=("clip_to_fp16", "custom_rms_norm"),
    compiler="QEfficient.compile.cloud_ai_100",
    session="QEfficient.generation.sessions.qaic_session",
    why_unavailable=_later("QEfficient.compile.qaic_sdk", "why_unavailable"),
)

_CLOUD_AI_100_SIM = replace(
    _CLOUD_AI_100,
    name="cloud-ai-100-sim",
    description="a simulator of the card, with its numerics, on this machine's processor",
    sdk_root=_later("QEfficient.compile.cloud_ai_100", "simulated_sdk"),
    why_unavailable=lambda: None,
)


def _openvino_missing() -> str | None:
    return None if find_spec("openvino") else "the package 'openvino' is not installed: pip install openvino"


_CPU = Target(
    name="cpu",
    description="this machine's processor, through OpenVINO",
    lowerings=("paged", "retained"),
    ignored_options=frozenset(
        {
            "num_cores",
            "num_devices",
            "mos",
            "aic_enable_depth_first",
            "aic_hw_version",
            "allow_mxint8_mdp_io",
            "mdp_num_partitions",
            "mdp_load_partition_config",
            "node_precision_info",
            "use_onnx_subfunctions",
            "comp_ctx_lengths_prefill",
            "comp_ctx_lengths_decode",
        }
    ),
    refused_options={
        "enable_qnn": "QNN compiles for a card; cpu compiles with OpenVINO",
        "qnn_config": "QNN compiles for a card; cpu compiles with OpenVINO",
        "dry_run": "cpu's compiler is a library, so there is no command to show",
        "prefill_only": "cpu runs prompts and answers through one graph",
        "num_speculative_tokens": "cpu has no graph for speculative decoding yet",
        "mxfp6_matmul": "cpu has no MXFP6; use weight_format='int8' or weight_format='int4'",
        "mxint8_kv_cache": "cpu has no MXINT8; its KV cache is 8-bit already unless precision='fp32', and weights "
        "take weight_format='int8' or 'int4'",
        "kv_cache_batch_size": "cpu keeps as many rows as it has slots; use full_batch_size",
    },
    prefill_seq_len=512,
    has_static_shapes=False,
    compiler="QEfficient.compile.openvino_compiler",
    session="QEfficient.generation.sessions.openvino_session",
    why_unavailable=_openvino_missing,
)

TARGETS: dict[str, Target] = {target.name: target for target in (_CLOUD_AI_100, _CPU, _CLOUD_AI_100_SIM)}


def choose_target(name: str | None = None, *, is_dry_run: bool = False) -> Target:
    """The target called ``name``, else that of ``QEFF_TARGET``, else the first that works on this machine.

    Raises:
        OptionError: there is no such target.
        TargetUnavailable: it cannot run on this machine; says why and which can.
    """
    asked = name or os.environ.get("QEFF_TARGET")
    if asked is None:
        return next(target for target in TARGETS.values() if target.why_unavailable() is None)
    if asked not in TARGETS:
        raise OptionError(f"There is no target '{asked}'.{nearest(asked, TARGETS)} Known: {', '.join(TARGETS)}.")
    problem = TARGETS[asked].why_unavailable()
    if problem is not None and not is_dry_run:
        working = [target.name for target in TARGETS.values() if target.why_unavailable() is None]
        raise TargetUnavailable(f"Target '{asked}' cannot run here: {problem}. Works here: {', '.join(working)}.")
    return TARGETS[asked]
