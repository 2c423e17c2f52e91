"""Hugging Face transformers on Qualcomm Cloud AI 100, and on this machine's processor.

Names are resolved when they are first used: importing this package loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from QEfficient.version import __version__

if TYPE_CHECKING:
    from QEfficient.generation.package import from_package
    from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics
    from QEfficient.transformers.functional import (
        QEFFCommonLoader,
        cloud_ai_100_exec_kv,
        compile,
        export,
        qualcomm_efficient_converter,
        transform,
    )
    from QEfficient.transformers.models.modeling_auto import (
        QEFFAutoModel,
        QEFFAutoModelForCausalLM,
        QEFFAutoModelForSeq2SeqLM,
        QEFFAutoModelForSequenceClassification,
    )

_MODELING = "QEfficient.transformers.models.modeling_auto"
_FUNCTIONAL = "QEfficient.transformers.functional"
_HOMES = {
    "QEFFAutoModel": _MODELING,
    "QEFFAutoModelForCausalLM": _MODELING,
    "QEFFAutoModelForSeq2SeqLM": _MODELING,
    "QEFFAutoModelForSequenceClassification": _MODELING,
    "QEFFCommonLoader": _FUNCTIONAL,
    "transform": _FUNCTIONAL,
    "export": _FUNCTIONAL,
    "qualcomm_efficient_converter": _FUNCTIONAL,
    "compile": _FUNCTIONAL,
    "cloud_ai_100_exec_kv": _FUNCTIONAL,
    "CloudAI100ExecInfo": "QEfficient.generation.results",
    "PerfMetrics": "QEfficient.generation.results",
    "from_package": "QEfficient.generation.package",
}
# Upstream spells its names in two ways; both are part of the interface.
_ALIASES = {name.replace("QEFF", "QEff", 1): name for name in _HOMES if name.startswith("QEFF")}

__all__ = [
    "CloudAI100ExecInfo",
    "PerfMetrics",
    "QEFFAutoModel",
    "QEFFAutoModelForCausalLM",
    "QEFFAutoModelForSeq2SeqLM",
    "QEFFAutoModelForSequenceClassification",
    "QEFFCommonLoader",
    "__version__",
    "cloud_ai_100_exec_kv",
    "compile",
    "export",
    "from_package",
    "qualcomm_efficient_converter",
    "transform",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    known = _ALIASES.get(name, name)
    if known not in _HOMES:
        raise AttributeError(f"module 'QEfficient' has no attribute {name!r}")
    return getattr(import_module(_HOMES[known]), known)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ALIASES})
