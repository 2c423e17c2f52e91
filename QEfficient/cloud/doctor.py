"""``qefficient doctor``: what works on this machine and what is missing. Needs none of what it looks for."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.flags import JSON, VERBOSE, flags
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.targets import TARGETS
from QEfficient.version import __version__

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf", "tokenizers")


@click.command("doctor", cls=Command)
@flags(JSON, VERBOSE)
@click.pass_obj
def command(out: Output, /, *, as_json: bool) -> int:
    """Say what works on this machine and what is missing.

    The exit code is 1 where no target works or the library's folder cannot be written.
    """
    found = examine()
    if as_json:
        out.json(found)
    else:
        out.pairs(_lines(found))
        out.write()
        rows = [
            [n, "yes" if t["works"] else "no", t["problem"] or t["description"]] for n, t in found["targets"].items()
        ]
        out.table(["Target", "Works", ""], rows)
    return 0 if found["home"]["is_writable"] and any(t["works"] for t in found["targets"].values()) else 1


def examine() -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "qefficient": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "home": _home(),
        "targets": {
            name: {
                "works": (why := target.why_unavailable()) is None,
                "problem": why,
                "description": target.description,
            }
            for name, target in TARGETS.items()
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": platform.processor() or platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }
    try:
        import openvino as ov

        core = ov.Core()
        found["name"] = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        found["capabilities"] = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except (ImportError, OSError, RuntimeError) as error:
        found |= {"capabilities": None, "problem": f"OpenVINO does not start: {error}"}
    return found


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _home() -> dict[str, Any]:
    from QEfficient.base.files import home

    folder = home().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return {
        "path": str(folder),
        "is_set": "QEFF_HOME" in os.environ,
        "is_writable": existing.is_dir() and os.access(existing, os.W_OK),
        "free_bytes": shutil.disk_usage(_nearest_folder(existing)).free,
    }


def _nearest_folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _lines(found: dict[str, Any]) -> dict[str, str]:
    from QEfficient.base.files import readable_bytes

    cpu, home = found["cpu"], found["home"]
    memory = f", {readable_bytes(cpu['memory_bytes'])} of memory" if cpu["memory_bytes"] else ""
    packages = {
        name: version if version is not None else f"not installed: pip install {name}"
        for name, version in found["packages"].items()
    }
    origin = "" if home["is_set"] else " (the default)"
    writable = "" if home["is_writable"] else ", NOT WRITABLE"
    return {
        "QEfficient": found["qefficient"],
        "Python": f"{found['python']} on {found['platform']}",
        **packages,
        "Processor": f"{cpu['name']}, {cpu['num_cores']} cores{memory}",
        "OpenVINO on it": " ".join(cpu["capabilities"]) if cpu["capabilities"] else cpu["problem"],
        "QEFF_HOME": f"{home['path']}{origin}, {readable_bytes(home['free_bytes'])} free{writable}",
    }


if __name__ == "__main__":
    run(command)
