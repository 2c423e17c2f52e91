"""Hugging Face transformers on Qualcomm Cloud AI 100, and on this machine's processor.

Names are resolved when they are first used: importing this package loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from QEfficient.compat.finder import install as _find_upstream_modules
from QEfficient.version import __version__

_find_upstream_modules()

if TYPE_CHECKING:
    from QEfficient.compat.functional import (
        cloud_ai_100_exec_kv,
        compile,
        export,
        qualcomm_efficient_converter,
    )
    from QEfficient.generation.package import from_package
    from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics
    from QEfficient.peft.auto import QEFFAutoPeftModelForCausalLM
    from QEfficient.peft.lora.auto import QEFFAutoLoraModelForCausalLM
    from QEfficient.transformers.models.common_loader import QEFFCommonLoader
    from QEfficient.transformers.models.modeling_auto import (
        QEFFAutoModel,
        QEFFAutoModelForCausalLM,
        QEFFAutoModelForCTC,
        QEFFAutoModelForImageTextToText,
        QEFFAutoModelForSeq2SeqLM,
        QEFFAutoModelForSequenceClassification,
        QEFFAutoModelForSpeechSeq2Seq,
        QEFFAutoModelForVision2Seq,
    )
    from QEfficient.transformers.transform import transform

_FUNCTIONAL = "QEfficient.compat.functional"
_HOMES = {
    "QEFFAutoPeftModelForCausalLM": "QEfficient.peft.auto",
    "QEFFAutoLoraModelForCausalLM": "QEfficient.peft.lora.auto",
    "QEFFCommonLoader": "QEfficient.transformers.models.common_loader",
    "transform": "QEfficient.transformers.transform",
    "export": _FUNCTIONAL,
    "qualcomm_efficient_converter": _FUNCTIONAL,
    "compile": _FUNCTIONAL,
    "cloud_ai_100_exec_kv": _FUNCTIONAL,
    "CloudAI100ExecInfo": "QEfficient.generation.results",
    "PerfMetrics": "QEfficient.generation.results",
    "from_package": "QEfficient.generation.package",
    "quantize": "QEfficient.quantization.quantize",
}


def _homes() -> dict[str, str]:
    """Public names -> their modules, the auto classes of all tasks included."""
    from QEfficient.tasks import TASKS

    return _HOMES | {task.public_name: task.auto_class.partition(":")[0] for task in TASKS.values()}


__all__ = [
    "CloudAI100ExecInfo",
    "PerfMetrics",
    "QEFFAutoLoraModelForCausalLM",
    "QEFFAutoModel",
    "QEFFAutoModelForCTC",
    "QEFFAutoModelForCausalLM",
    "QEFFAutoModelForImageTextToText",
    "QEFFAutoModelForSeq2SeqLM",
    "QEFFAutoModelForSequenceClassification",
    "QEFFAutoModelForSpeechSeq2Seq",
    "QEFFAutoModelForVision2Seq",
    "QEFFAutoPeftModelForCausalLM",
    "QEFFCommonLoader",
    "__version__",
    "cloud_ai_100_exec_kv",
    "compile",
    "export",
    "from_package",
    "qualcomm_efficient_converter",
    "quantize",
    "transform",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    homes = _homes()
    # Upstream spells its names in two ways; both are part of the interface.
    public = name.replace("QEff", "QEFF", 1) if name.startswith("QEff") else name
    if public not in homes:
        from QEfficient.compat.moved import names_of

        return names_of(__name__)(public)
    return getattr(import_module(homes[public]), public)


def __dir__() -> list[str]:
    names = _homes()
    aliases = {name.replace("QEFF", "QEff", 1) for name in names if name.startswith("QEFF")}
    return sorted({*globals(), *__all__, *names, *aliases})
