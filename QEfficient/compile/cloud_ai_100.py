"""The compilers of the ``cloud-ai-100`` targets: finds the target's SDK, and takes qaic-compile or QNN, once."""

from __future__ import annotations

from pathlib import Path

from QEfficient.compile.qaic_compiler import QaicCompiler
from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.compile.qnn_compiler import QnnCompiler
from QEfficient.contract import Compiler
from QEfficient.options import CompileOptions
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


def load_compiler(target: Target, options: CompileOptions) -> Compiler:
    """qaic-compile of the target's SDK, or QNN with ``enable_qnn``."""
    return QnnCompiler(options.qnn_config) if options.enable_qnn else QaicCompiler(sdk_of(target))
