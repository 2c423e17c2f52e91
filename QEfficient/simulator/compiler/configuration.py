"""The compiler's configuration files: specializations, custom IO, partitions, node precision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from QEfficient.simulator.compiler.command_line import CommandLine
from QEfficient.simulator.rejection import JSON_TYPE_ERROR, Rejected
from QEfficient.simulator.runtime.devices import MAX_CORES

Symbols = Mapping[str, int]

PRECISIONS = ("float", "float16", "bfloat16", "int8", "mxint8")
NAMED_SINCE = (1, 22)
"""The first SDK that supports named specializations."""
_IO_FIELDS = frozenset({"IOName", "Precision", "Layout", "Scale", "Offset"})


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Rejected(f"Cannot open {path}: {error.strerror}") from error
    except ValueError as error:
        raise Rejected(f"[json.exception.parse_error.101] {path}: {error}", JSON_TYPE_ERROR) from error


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Rejected(f"Cannot open {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Rejected(f"{path} is not YAML: {error}") from error


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", bool: "boolean", str: "string", type(None): "null"}
    return names.get(type(value), "number")


def _expect_string(value: Any) -> str:
    if not isinstance(value, str):
        message = f"[json.exception.type_error.302] type must be string, but is {_json_type(value)}"
        raise Rejected(message, JSON_TYPE_ERROR)
    return value


def read_specializations(path: Path, sdk_version: tuple[int, ...]) -> list[dict[str, int]]:
    """Sizes of the symbols in each specialization, in the file's order.

    Args:
        path: ``{"specializations": [...]}``, each flat, or ``{"name", "symbols"}`` since SDK 1.22.
        sdk_version: the SDK that reads it.

    Raises:
        Rejected: wrong types (exit code 255), sizes that are not positive numbers, a name that occurs twice.
    """
    content = _json(path)
    entries = content.get("specializations") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise Rejected(f'{path}: expected {{"specializations": [...]}} with at least one entry.', JSON_TYPE_ERROR)
    is_named = [isinstance(entry, dict) and "symbols" in entry for entry in entries]
    if any(is_named) and sdk_version < NAMED_SINCE:
        _expect_string(next(entry for entry in entries if "symbols" in entry)["symbols"])
    names = [_expect_string(entry.get("name")) for entry, named in zip(entries, is_named, strict=True) if named]
    if len(set(names)) < len(names):
        raise Rejected(f"{path}: names of specializations must be unique, got {', '.join(names)}.")
    flat = [entry["symbols"] if named else entry for entry, named in zip(entries, is_named, strict=True)]
    return [_sizes(path, symbols) for symbols in flat]


def _sizes(path: Path, symbols: Any) -> dict[str, int]:
    if not isinstance(symbols, dict):
        message = f"[json.exception.type_error.302] type must be object, but is {_json_type(symbols)}"
        raise Rejected(message, JSON_TYPE_ERROR)
    texts = {name: _expect_string(value) for name, value in symbols.items()}
    for name, text in texts.items():
        if not text.isdecimal() or int(text) < 1:
            raise Rejected(f'{path}: symbol {name} is "{text}"; expected a size of at least 1.')
    return {name: int(text) for name, text in texts.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomIO:
    """How the host sees one input or output."""

    name: str
    precision: str | None = None
    scale: float = 1.0
    offset: int = 0


def read_custom_io(path: Path) -> dict[str, CustomIO]:
    """The entries by name.

    Raises:
        Rejected: an unknown field or precision, a layout (not simulated), or a name that occurs twice.
    """
    entries = _yaml(path) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "IOName" in entry for entry in entries):
        raise Rejected(f"{path}: expected a list of entries with IOName and Precision.")
    by_name: dict[str, CustomIO] = {}
    for entry in entries:
        custom = _custom_io(path, entry)
        if custom.name in by_name:
            raise Rejected(f"{path}: {custom.name} is listed twice.")
        by_name[custom.name] = custom
    return by_name


def _custom_io(path: Path, entry: Mapping[str, Any]) -> CustomIO:
    name, precision = str(entry["IOName"]), entry.get("Precision")
    unknown = set(entry) - _IO_FIELDS
    if unknown:
        raise Rejected(f"{path}: {name} has unknown fields {', '.join(sorted(unknown))}.")
    if "Layout" in entry:
        raise Rejected(f"{path}: {name} has a Layout, which the simulator does not compute.")
    if precision is not None and precision not in PRECISIONS:
        raise Rejected(f"{path}: {name} has Precision {precision}; expected one of {', '.join(PRECISIONS)}.")
    return CustomIO(
        name=name, precision=precision, scale=float(entry.get("Scale", 1.0)), offset=int(entry.get("Offset", 0))
    )


@dataclass(frozen=True, slots=True)
class NodePrecision:
    """First output names of the nodes whose precision differs from the rest."""

    fp32: frozenset[str] = field(default=frozenset())
    fp16: frozenset[str] = field(default=frozenset())


def read_node_precision(path: Path) -> NodePrecision:
    """Raises Rejected for an unknown key, or a name in both lists."""
    content = _yaml(path) or {}
    keys = ("FP32NodeInstanceNames", "FP16NodeInstanceNames")
    if not isinstance(content, dict) or set(content) - set(keys):
        raise Rejected(f"{path}: expected the keys {' and '.join(keys)}, got {content!r}.")
    fp32, fp16 = (frozenset(map(str, content.get(key) or ())) for key in keys)
    if fp32 & fp16:
        raise Rejected(f"{path}: {', '.join(sorted(fp32 & fp16))} cannot be in fp32 and in fp16.")
    return NodePrecision(fp32, fp16)


@dataclass(frozen=True, slots=True)
class Partitions:
    """Number of devices of a program, and of cores per device."""

    num_devices: int = 1
    num_cores: int | None = None


def read_partitions(path: Path, num_cores: int | None) -> Partitions:
    """Check a multi-device partition file.

    Raises:
        Rejected: a device in two partitions, cores that differ or are not those of -aic-num-cores, a connection of
            devices that are in no partition.
    """
    content = _json(path)
    partitions = content.get("partitions") if isinstance(content, dict) else None
    if not isinstance(partitions, list) or not partitions:
        raise Rejected(f'{path}: expected {{"partitions": [...]}} with at least one entry.')
    cores: dict[int, int] = {}
    for partition in partitions:
        for device_id, wanted in _partition_devices(path, partition):
            if device_id in cores:
                raise Rejected(f"{path}: device {device_id} is in two partitions or twice in one.")
            cores[device_id] = wanted
    asked = set(cores.values()) | ({num_cores} if num_cores is not None else set())
    if len(asked) > 1 or not max(asked) <= MAX_CORES:
        raise Rejected(
            f"{path}: numCores must be one number from 1 to {MAX_CORES}, the same for all devices and for "
            f"-aic-num-cores; got {', '.join(map(str, sorted(asked)))}."
        )
    _check_connections(path, content.get("connections", []), set(cores))
    return Partitions(len(cores), asked.pop())


def _partition_devices(path: Path, partition: Any) -> list[tuple[int, int]]:
    devices = partition.get("devices") if isinstance(partition, dict) else None
    if not isinstance(devices, list) or not devices or "name" not in partition:
        raise Rejected(f"{path}: a partition needs a name and devices, got {partition!r:.200}.")
    try:
        return [(int(device["deviceId"]), int(device["numCores"])) for device in devices]
    except (KeyError, TypeError, ValueError) as error:
        raise Rejected(f"{path}: a device needs deviceId and numCores, both numbers: {devices!r:.200}.") from error


def _check_connections(path: Path, connections: Any, devices: set[int]) -> None:
    for connection in connections:
        connected = connection.get("devices", []) if isinstance(connection, dict) else []
        if connection.get("type") != "p2p" or not set(connected) <= devices:
            raise Rejected(f"{path}: a connection is of type p2p, among devices of the partitions; got {connection}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Content of all configuration files of one run."""

    specializations: list[dict[str, int]]
    partitions: Partitions
    custom_io: Mapping[str, CustomIO]
    precision: NodePrecision


def read_configuration(command: CommandLine, sdk_version: tuple[int, ...]) -> Configuration:
    """Read the files that ``command`` names; symbols of the command line are defaults for the specializations.

    Raises:
        Rejected: one of them cannot be read, or breaks a rule.
    """
    specializations = [dict(command.symbols)]
    if command.specializations:
        listed = read_specializations(command.specializations, sdk_version)
        specializations = [{**command.symbols, **symbols} for symbols in listed]
    partitions = Partitions(num_cores=command.num_cores)
    if command.partitions:
        partitions = read_partitions(command.partitions, command.num_cores)
    return Configuration(
        specializations=specializations,
        partitions=partitions,
        custom_io=read_custom_io(command.custom_io) if command.custom_io else {},
        precision=read_node_precision(command.node_precision) if command.node_precision else NodePrecision(),
    )
