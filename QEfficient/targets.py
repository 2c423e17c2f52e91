"""The targets: what each can do, as data. Stages ask the row, never the name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    compiler: str
    """Module with ``compile_onnx`` and ``toolchain``."""
    session: str
    """Module with ``open_session`` and ``open_encoder``; it imports neither torch nor transformers."""
    why_unavailable: Callable[[], str | None]
    """What is missing on this machine to run it, or None."""


def _openvino_missing() -> str | None:
    from importlib.util import find_spec

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
    compiler="QEfficient.compile.openvino_compiler",
    session="QEfficient.generation.openvino_session",
    why_unavailable=_openvino_missing,
)

TARGETS: dict[str, Target] = {target.name: target for target in (_CPU,)}


def choose_target(name: str | None = None) -> Target:
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
    if problem is not None:
        working = [target.name for target in TARGETS.values() if target.why_unavailable() is None]
        raise TargetUnavailable(f"Target '{asked}' cannot run here: {problem}. Works here: {', '.join(working)}.")
    return TARGETS[asked]
