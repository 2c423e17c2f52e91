"""The SDK of Cloud AI 100 on this machine: its folder, its version, the detected cards, and its runtime's modules.

The Apps SDK compiles and needs no card; the Platform SDK runs. Both install into one folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

from QEfficient.errors import TargetUnavailable
from QEfficient.store.files import user_path

logger = logging.getLogger(__name__)

DEFAULT_ROOT = Path("/opt/qti-aic")
ENVIRONMENT = "QEFF_QAIC_SDK"
COMPILERS = ("qaic-compile", "qaic-exec")
"""Under ``exec``; the second is deprecated and runs the network too unless it is told not to."""
RUNTIME_MODULES = ("qaicrt", "QAicApi_pb2")
_QUERY_TIMEOUT_S = 10.0
_OWN_PREFIX = "_qeff_sdk_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One SoC as ``qaic-util -q`` describes it; None for what it does not report. Little is reported of a card that is
    not ready."""

    qid: int
    status: str
    """"Ready", "Initializing" or "Error"."""
    fw_image_variant: str | None = None
    nsp_image_variant: str | None = None
    """Names the chip; older tools report only that of the firmware."""
    hw_version: str | None = None
    dram_total_mb: int | None = None
    dram_free_mb: int | None = None
    nsp_total: int | None = None
    """Cores."""
    nsp_free: int | None = None
    sku: str | None = None

    @property
    def image_variant(self) -> str | None:
        """What names the chip, such as "AIC100.LA"."""
        return self.nsp_image_variant or self.fw_image_variant


@dataclass(frozen=True, kw_only=True, slots=True)
class QaicSDK:
    """An installed SDK."""

    root: Path
    compiler: Path | None = None
    """None where only the Platform SDK is installed."""
    version: str | None = None
    """Of the Apps SDK, such as "1.22.0.41"; None if unknown."""

    @classmethod
    def find(cls, root: Path | None = None) -> QaicSDK | None:
        """The SDK in ``root``, else in the folder that QEFF_QAIC_SDK names, else in the default one; or None."""
        folder = _root(root)
        if not folder.is_dir():
            return None
        compilers = [folder / "exec" / name for name in COMPILERS]
        compiler = next((path for path in compilers if path.is_file()), None)
        return cls(root=folder, compiler=compiler, version=read_version(folder / "versions" / "apps.xml"))

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """Where the runtime's Python modules are."""
        return (self.root / "dev" / "lib" / platform.machine(), self.root / "dev" / "python")

    def devices(self, timeout_s: float = _QUERY_TIMEOUT_S) -> list[Device]:
        """The cards' SoCs; none without the Platform SDK, which includes the query tool.

        Raises:
            TargetUnavailable: the tool exists and fails.
        """
        tool = self.root / "tools" / "qaic-util"
        if not tool.is_file():
            return []
        try:
            answer = subprocess.run(
                [str(tool), "-q"], capture_output=True, timeout=timeout_s, check=True, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise TargetUnavailable(
                f"'{tool} -q' did not answer within {timeout_s:g} s. A card may be resetting: run it by hand."
            ) from None
        except subprocess.CalledProcessError as error:
            said = (error.stderr + error.stdout).decode(errors="replace").strip()
            raise TargetUnavailable(f"'{tool} -q' failed with exit status {error.returncode}: {said}") from None
        except OSError as error:
            raise TargetUnavailable(f"'{tool}' does not start: {error}") from None
        return parse_devices(answer.stdout.decode(errors="replace"))

    def hw_version(self) -> str:
        """The chip to compile for: that of the cards here, "ai100" where there is none. Asks the cards each time."""
        try:
            devices = self.devices()
        except TargetUnavailable as problem:
            logger.warning("%s Compiling for ai100; aic_hw_version='ai200' chooses the other chip.", problem)
            return "ai100"
        return "ai200" if any("AIC200" in (device.image_variant or "") for device in devices) else "ai100"


def _root(root: Path | None) -> Path:
    return user_path(root or os.environ.get(ENVIRONMENT) or DEFAULT_ROOT, ENVIRONMENT)


def why_unavailable(root: Path | None = None) -> str | None:
    """What is missing to compile for the card, and what to install; None if nothing is."""
    folder = _root(root)
    place = f"{folder} (from {ENVIRONMENT})" if root is None and os.environ.get(ENVIRONMENT) else str(folder)
    install = f"install the Cloud AI 100 Apps SDK from Qualcomm, or set {ENVIRONMENT} to the folder that it is in"
    sdk = QaicSDK.find(root)
    if sdk is None:
        return f"there is no SDK at {place}: {install}"
    if sdk.compiler is None:
        return f"the SDK at {place} has no compiler (exec/{COMPILERS[0]}): {install}"
    if not os.access(sdk.compiler, os.X_OK):
        return f"{sdk.compiler} may not be executed: run `sudo chmod a+x {sdk.compiler.parent}/*`"
    return None


def why_cannot_run(root: Path | None = None) -> str | None:
    """What is missing to run a compiled model; None if nothing is. Asks the cards, and imports nothing."""
    folder = _root(root)
    install = "install the Cloud AI 100 Platform SDK from Qualcomm"
    sdk = QaicSDK.find(root)
    if sdk is None:
        return f"there is no SDK at {folder}: {install}, or set {ENVIRONMENT} to the folder that it is in"
    missing = [name for name in RUNTIME_MODULES if _find(sdk, name) is None]
    if missing:
        return _no_module(sdk, missing[0])
    try:
        devices = sdk.devices()
    except TargetUnavailable as problem:
        return str(problem)
    if not any(device.status == "Ready" for device in devices):
        statuses = ", ".join(f"QID {device.qid}: {device.status}" for device in devices) or "none detected"
        return f"no card is ready ({statuses}): {install}, and check `{sdk.root}/tools/qaic-util -q`"
    return None


def read_version(path: Path) -> str | None:
    """The version in a file of the SDK's ``versions`` folder; None where it cannot be parsed."""
    try:
        elements = list(ElementTree.parse(path).iter())
    except (OSError, ElementTree.ParseError):
        return None
    texts = {element.tag.rpartition("}")[2].lower(): (element.text or "").strip() for element in elements}
    base = texts.get("base_version") or texts.get("version")
    if not base or not re.match(r"\d+(\.\d+)+$", base):
        return None
    return ".".join(part for part in (base, texts.get("build_id")) if part)


def version_pair(version: str | None) -> tuple[int, int] | None:
    """Major and minor of a version; None if it is unknown."""
    match = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(match[1]), int(match[2])) if match else None


def parse_devices(text: str) -> list[Device]:
    """The devices in what ``qaic-util -q`` prints: "QID n", then lines of "Key:Value"."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        if match := re.match(r"\s*QID\s+(\d+)", line):
            blocks.append({"QID": match[1]})
        elif blocks and ":" in line:
            key, _, value = line.partition(":")
            blocks[-1].setdefault(key.strip(), value.strip())
    return [_device(block) for block in blocks]


def _device(fields: dict[str, str]) -> Device:
    def number(key: str) -> int | None:
        match = re.match(r"\d+", fields.get(key, ""))
        return int(match[0]) if match else None

    return Device(
        qid=int(fields["QID"]),
        status=fields.get("Status", "unknown"),
        fw_image_variant=fields.get("FW IMAGE_VARIANT"),
        nsp_image_variant=fields.get("NSP IMAGE_VARIANT"),
        hw_version=fields.get("HW Version"),
        dram_total_mb=number("Dram Total"),
        dram_free_mb=number("Dram Free"),
        nsp_total=number("Nsp Total"),
        nsp_free=number("Nsp Free"),
        sku=fields.get("Sku Type"),
    )


def import_runtime(sdk: QaicSDK) -> tuple[ModuleType, ModuleType]:
    """The runtime's modules ``(qaicrt, QAicApi_pb2)`` of this SDK. Sessions call it when they open.

    A process may use two SDKs (the simulator's and a card's), so that each is loaded under a unique name.

    Raises:
        TargetUnavailable: they are not there, are for another Python, or do not load; says which.
    """
    with _importable(sdk.library_folders):
        modules = {name: _load(sdk, name) for name in RUNTIME_MODULES}
    for name, module in modules.items():
        if _origin(module).endswith(tuple(EXTENSION_SUFFIXES)):
            # One can be initialised once in a process, so other libraries must find ours under its plain name.
            sys.modules.setdefault(name, module)
    return modules["qaicrt"], modules["QAicApi_pb2"]


@contextmanager
def _importable(folders: Sequence[Path]) -> Iterator[None]:
    """Put the folders on the path and hide the modules of other SDKs; afterwards also remove those of this one."""
    path_before, names_before = list(sys.path), {*sys.modules}
    others = _other_sdks(folders)
    hidden = {name: module for name, module in sys.modules.items() if _is_in(module, others)}
    for name in hidden:
        del sys.modules[name]
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = path_before
        for name in sys.modules.keys() - names_before:
            if _is_in(sys.modules[name], folders) and not name.startswith(_OWN_PREFIX):
                del sys.modules[name]
        sys.modules.update(hidden)


def _other_sdks(folders: Sequence[Path]) -> set[Path]:
    """The folders of the runtimes that are already loaded."""
    loaded = [module for name, module in sys.modules.items() if name in RUNTIME_MODULES or name.startswith(_OWN_PREFIX)]
    origins = [Path(_origin(module)) for module in loaded if _origin(module)]
    return {path.parents[path.stem == "__init__"] for path in origins} - {*folders}


def _origin(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _is_in(module: ModuleType, folders: Iterable[Path]) -> bool:
    return any(Path(_origin(module)).is_relative_to(folder) for folder in folders)


def _find(sdk: QaicSDK, name: str) -> ModuleSpec | None:
    importlib.invalidate_caches()  # the SDK may have been installed since the folder was last looked into
    return PathFinder.find_spec(name, [str(folder) for folder in sdk.library_folders])


def _load(sdk: QaicSDK, name: str) -> ModuleType:
    module_spec = _find(sdk, name)
    if module_spec is None or module_spec.origin is None:
        raise TargetUnavailable(f"The card's runtime cannot be used: {_no_module(sdk, name)}.")
    own_name = f"{_OWN_PREFIX}{hashlib.sha256(module_spec.origin.encode()).hexdigest()[:12]}.{name}"
    for known in (sys.modules.get(own_name), sys.modules.get(name)):
        if known is not None and getattr(known, "__file__", None) == module_spec.origin:
            return known
    spec = importlib.util.spec_from_file_location(
        own_name, module_spec.origin, submodule_search_locations=module_spec.submodule_search_locations
    )
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[own_name] = module  # as the import statement does, for packages that import themselves
        spec.loader.exec_module(module)
    except (ImportError, TypeError) as error:  # TypeError: generated code that this protobuf does not take
        sys.modules.pop(own_name, None)
        raise TargetUnavailable(
            f"{module_spec.origin} does not load in Python {platform.python_version()}: {error}. Use the Python and "
            "the protobuf that the SDK's release notes name."
        ) from error
    return module


def _no_module(sdk: QaicSDK, name: str) -> str:
    """Why there is no module ``name`` to import: built for another Python, or not installed."""
    folders = sdk.library_folders
    others = sorted(path.name for folder in folders for path in folder.glob(f"{name}*.so"))
    if others:
        here = f"Python {sys.version_info.major}.{sys.version_info.minor} ({EXTENSION_SUFFIXES[0]})"
        return (
            f"the SDK's {name} is built for another Python: the SDK has {', '.join(others)}, this is {here}. Use the "
            "Python that the SDK was built for, or an SDK for this one"
        )
    return f"there is no module {name} in {' or '.join(map(str, folders))}: install the Platform SDK"
