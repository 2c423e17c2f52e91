"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "bf16",
)
_DISTRIBUTIONS = (
    "qefficient",
    "torch",
    "transformers",
    "openvino",
    "nncf",
    "openvino-genai",
    "onnxruntime",
    "onnxruntime-genai",
)


def describe(num_threads: int) -> dict[str, Any]:
    """CPU, memory, threads and versions; ``load_average`` says how quiet the machine was."""
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_flags": sorted(set(_FLAGS) & set(cpu.get("flags", cpu.get("Features", "")).split())),
        "num_cpus": os.cpu_count(),
        "num_threads": num_threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
    }


def _cpu() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
