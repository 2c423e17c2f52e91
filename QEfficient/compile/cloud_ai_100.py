"""The compilers of the ``cloud-ai-100`` targets as the lifecycle calls them: it finds the target's SDK, and takes
qaic-compile or QNN as the options say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from QEfficient.compile import qaic_compiler
from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.contract import CompileJob
from QEfficient.store.files import home
from QEfficient.targets import Target
from QEfficient.version import __version__


def simulated_sdk() -> Path:
    """The SDK of the simulator, written on first use; its compiler, runtime and tools need no card."""
    from QEfficient.simulator.sdk import install

    return install(home() / "simulator" / __version__)


def sdk_of(target: Target) -> QaicSDK | None:
    """The SDK that ``target`` compiles and runs with, or None where it is not installed."""
    return QaicSDK.find(target.sdk_root() if target.sdk_root is not None else None)


def check(job: CompileJob, target: Target) -> None:
    """Find what is wrong before anything is exported. Raises as :func:`qaic_compiler.check`."""
    qaic_compiler.check(job, sdk_of(target))


def key_ingredients(job: CompileJob, target: Target) -> dict[str, Any]:
    """Everything that decides what :func:`compile_onnx` makes of a graph."""
    return qaic_compiler.key_ingredients(job, sdk_of(target))


def compile_onnx(onnx_path: Path, folder: Path, job: CompileJob, target: Target) -> dict[str, Any]:
    """See :func:`qaic_compiler.compile_onnx`."""
    return qaic_compiler.compile_onnx(onnx_path, folder, job, sdk_of(target))
