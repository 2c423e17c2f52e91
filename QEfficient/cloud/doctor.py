"""``qefficient doctor``: what works on this machine and what is missing. Runs without what it checks for."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, flags
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.compile import qaic_sdk, qnn_compiler
from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.errors import TargetUnavailable
from QEfficient.targets import TARGETS
from QEfficient.version import __version__

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf", "tokenizers")
NODES, NODE_CLASS = Path("/dev/accel"), Path("/sys/class/accel")
"""Device nodes of accelerators on Linux, and their entries in sysfs."""
_DRIVER = "qaic"
_PLATFORM = "install the Cloud AI 100 Platform SDK from Qualcomm"


@click.command("doctor", cls=Command)
@flags(JSON, *LOGGING)
@click.pass_obj
def command(out: Output, /, *, as_json: bool) -> int:
    """Show what works on this machine and what is missing.

    The exit code is 1 where no target works or the library's folder cannot be written.
    """
    report = examine()
    if as_json:
        out.json(report)
    else:
        out.pairs(_lines(report))
        if report["cloud_ai_100"]["devices"]:
            out.write()
            out.table(["QID", "Status", "SKU", "Free cores", "Free memory", "Firmware"], _device_rows(report))
        out.write()
        rows = [
            [n, "yes" if t["works"] else "no", t["problem"] or t["description"]] for n, t in report["targets"].items()
        ]
        out.table(["Target", "Compiles", ""], rows)
    return 0 if report["home"]["is_writable"] and any(t["works"] for t in report["targets"].values()) else 1


def examine() -> dict[str, Any]:
    """The report that ``--json`` prints."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "qefficient": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "home": _home(),
        "cloud_ai_100": _cloud_ai_100(),
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
    cpu: dict[str, Any] = {
        "name": platform.processor() or platform.machine(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }
    try:
        import openvino as ov

        core = ov.Core()
        cpu["name"] = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        cpu["capabilities"] = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except (ImportError, OSError, RuntimeError) as error:
        cpu |= {"capabilities": None, "problem": f"OpenVINO does not start: {error}"}
    return cpu


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _home() -> dict[str, Any]:
    from QEfficient.store.files import home

    folder = home().absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return {
        "path": str(folder),
        "is_set": "QEFF_HOME" in os.environ,
        "is_writable": existing.is_dir() and _takes_files(existing),
        "free_bytes": shutil.disk_usage(_nearest_folder(existing)).free,
    }


def _takes_files(folder: Path) -> bool:
    """By trying: permissions say nothing of a file system that is full, read-only or not a disk's."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".qefficient-doctor-"):
            return True
    except OSError:
        return False


def _nearest_folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _cloud_ai_100() -> dict[str, Any]:
    sdk = QaicSDK.find()
    compiles = _sdk(sdk)
    driver = {"nodes": [], "problem": None} if compiles["is_simulated"] else _driver()
    return {"sdk": compiles, "driver": driver, **_devices(sdk), "qnn": _qnn()}


def _sdk(sdk: QaicSDK | None) -> dict[str, Any]:
    """The SDK that compiles."""
    return {
        "root": str(sdk.root) if sdk else None,
        "is_set": bool(os.environ.get(qaic_sdk.ENVIRONMENT)),
        "version": sdk.version if sdk else None,
        "platform_version": qaic_sdk.read_version(sdk.root / "versions" / "platform.xml") if sdk else None,
        "compiler": str(sdk.compiler) if sdk and sdk.compiler else None,
        "is_simulated": sdk is not None and _is_simulated(sdk.compiler),
        "problem": qaic_sdk.why_unavailable(),
    }


def _is_simulated(compiler: Path | None) -> bool:
    """Whether a compiler is a launcher of the simulator."""
    if compiler is None:
        return False
    try:
        with compiler.open("rb") as file:
            return b"QEfficient.simulator" in file.read(4096)
    except OSError:
        return False


def _driver() -> dict[str, Any]:
    """The device nodes of the kernel driver, one per SoC."""
    nodes = [_node(path) for path in sorted(NODES.glob("accel*"))]
    ours = [
        node for node in nodes if node["driver"] in (None, _DRIVER)
    ]  # the folder also has other vendors' accelerators
    closed = [node for node in ours if not node["is_usable"]]
    problem = None
    if not ours:
        problem = f"no {NODES}/accel* of a card: {_PLATFORM}, which includes the driver '{_DRIVER}'"
    elif closed:
        group = closed[0]["group"] or _DRIVER
        problem = (
            f"this user may not open {', '.join(node['path'] for node in closed)}: "
            f"run `sudo usermod -aG {group} $USER`, and log in again"
        )
    return {"nodes": ours, "problem": problem}


def _node(path: Path) -> dict[str, Any]:
    driver = NODE_CLASS / path.name / "device" / "driver"
    try:
        group = path.group()
    except (KeyError, OSError):
        group = None
    return {
        "path": str(path),
        "driver": driver.resolve().name if driver.exists() else None,
        "group": group,
        "is_usable": os.access(path, os.R_OK | os.W_OK),
    }


def _devices(sdk: QaicSDK | None) -> dict[str, Any]:
    """What runs programs: the query tool, the devices that it lists, and the runtime."""
    tool = sdk.root / "tools" / "qaic-util" if sdk else None
    has_tool = tool is not None and tool.is_file()
    runtime: dict[str, Any] = {"query_tool": str(tool) if has_tool else None, "devices": []}
    try:
        runtime["devices"] = [asdict(device) for device in sdk.devices()] if sdk else []
    except TargetUnavailable as error:
        return {**runtime, "why_not_run": str(error)}
    return {**runtime, "why_not_run": qaic_sdk.why_cannot_run()}


def _qnn() -> dict[str, Any]:
    try:
        root = qnn_compiler.sdk_root()
    except TargetUnavailable as error:
        return {"root": os.environ.get(qnn_compiler.ENVIRONMENT), "version": None, "problem": str(error)}
    return {"root": str(root), "version": qnn_compiler.toolchain()["qnn_sdk"], "problem": None}


def _lines(report: dict[str, Any]) -> dict[str, str]:
    from QEfficient.store.files import readable_bytes

    cpu, home = report["cpu"], report["home"]
    memory = f", {readable_bytes(cpu['memory_bytes'])} of memory" if cpu["memory_bytes"] else ""
    packages = {
        name: version if version is not None else f"not installed: pip install {name}"
        for name, version in report["packages"].items()
    }
    origin = "" if home["is_set"] else " (the default)"
    writable = "" if home["is_writable"] else ", NOT WRITABLE"
    return {
        "QEfficient": report["qefficient"],
        "Python": f"{report['python']} on {report['platform']}",
        **packages,
        "Processor": f"{cpu['name']}, {cpu['num_cores']} cores{memory}",
        "OpenVINO on it": " ".join(cpu["capabilities"]) if cpu["capabilities"] else cpu["problem"],
        "QEFF_HOME": f"{home['path']}{origin}, {readable_bytes(home['free_bytes'])} free{writable}",
        **_card_lines(report["cloud_ai_100"]),
    }


def _card_lines(card: dict[str, Any]) -> dict[str, str]:
    sdk, driver, qnn = card["sdk"], card["driver"], card["qnn"]
    is_looked_for = sdk["is_set"] or bool(os.environ.get(qnn_compiler.ENVIRONMENT))
    if sdk["root"] is None and not driver["nodes"] and not is_looked_for:
        return {"Cloud AI 100": "none here, which is fine for the targets cpu and cloud-ai-100-sim"}
    kind = ", SIMULATED" if sdk["is_simulated"] else ""
    about = f"{sdk['root']}, version {sdk['version'] or 'unknown'}{kind}"
    compiler = f", {Path(sdk['compiler']).name}" if sdk["compiler"] else ""
    nodes = ", ".join(node["path"] for node in driver["nodes"]) or "a simulated SDK needs none"
    return {
        "Cloud AI 100 SDK": sdk["problem"] or f"{about}{compiler}",
        "Its driver": driver["problem"] or nodes,
        "Its query tool": card["query_tool"] or f"not installed: {_PLATFORM}",
        "Runs programs": card["why_not_run"] or "yes",
        "QNN SDK": qnn["problem"] or f"{qnn['root']}, version {qnn['version']}",
    }


def _device_rows(report: dict[str, Any]) -> list[list[str]]:
    def share(device: dict[str, Any], name: str, unit: str = "") -> str:
        free, total = device[f"{name}_free{unit}"], device[f"{name}_total{unit}"]
        return "?" if total is None else f"{'?' if free is None else free} of {total}{unit.replace('_mb', ' MB')}"

    return [
        [
            str(device["qid"]),
            device["status"],
            device["sku"] or "?",
            share(device, "nsp"),
            share(device, "dram", "_mb"),
            device["nsp_image_variant"] or device["fw_image_variant"] or "?",
        ]
        for device in report["cloud_ai_100"]["devices"]
    ]


if __name__ == "__main__":
    run(command)
