"""The flags of ``qaic-compile``, and the rules between them.

One dash, dashes between words, ``-name=value``; a switch may stand alone. The tables say what a flag means to the
simulator: PERFORMANCE flags are checked and have no effect; UNSIMULATED flags are rejected, not ignored, since they
change what the program computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from QEfficient.simulator.rejection import Rejected
from QEfficient.simulator.runtime.devices import MAX_CORES

HARDWARE = ("2.0", "ai100", "ai200")
_SWITCH_VALUES = {"true": True, "1": True, "false": False, "0": False}

_SWITCHES = """aic-hw retained-state convert-to-fp16 mxfp6-matmul sub-functions"""
_VALUES = """m model onnx-define-symbol network-specialization-config custom-IO-list-file
    dump-custom-IO-config-template aic-hw-version aic-binary-dir aic-num-cores mos ols mdts-mos node-precision-info
    sdp-cluster-sizes mdp-load-partition-config mdp-dump-partition-config"""
_PERFORMANCE_SWITCHES = """compile-only multicast-weights allow-mxint8-mdp-io aic-enable-depth-first use-producer-dma
    split-retained-state-io user-tiled always-expand-onnx-functions host-preproc aic-preproc combine-inputs
    combine-outputs io-crc qpc-crc ddr-stats aic-perf-metrics aic-perf-warnings time-passes enable-debug v vv vvv"""
_PERFORMANCE_VALUES = """aic-num-of-instances stats-batchsize aic-depth-first-mem size-split-granularity
    vtcm-working-set-limit-ratio allocator-dealloc-delay io-crc-stride compile-threads profiling-threads
    aic-profiling-type stats-level aic-pmu-recipe aic-pmu-events"""
_UNSIMULATED = """batchsize execute-nodes-in-fp16 keep-original-precision-for-nodes register-custom-op io-encrypt
    input-list-file load-profile dump-profile external-quantization convert-to-quantize quantization-schema
    quantization-schema-activations quantization-schema-constants quantization-calibration
    percentile-calibration-value num-histogram-bins quantization-precision quantization-precision-bias
    enable-rowwise enable-channelwise dynamic-shape-input operators-supported output-node-name model-input
    device-id num-iter"""
INFORMATION = ("h", "help", "usage", "version", "version-extended")

SWITCHES = frozenset(f"{_SWITCHES} {_PERFORMANCE_SWITCHES}".split())
VALUES = frozenset(f"{_VALUES} {_PERFORMANCE_VALUES}".split())
UNSIMULATED = frozenset(_UNSIMULATED.split())
_REPEATABLE = frozenset({"onnx-define-symbol"})
_DASH = re.compile(r"^--?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine:
    """The options of one compiler run."""

    model: Path
    binary_dir: Path
    hardware: str = "2.0"
    num_cores: int | None = None
    fp16: bool = False
    mxfp6: bool = False
    retained_state: bool = False
    sub_functions: bool = False
    symbols: Mapping[str, int] = field(default_factory=dict)
    specializations: Path | None = None
    custom_io: Path | None = None
    custom_io_template: Path | None = None
    node_precision: Path | None = None
    partitions: Path | None = None
    partitions_dump: Path | None = None


def parse(argv: Iterable[str]) -> CommandLine:
    """Parse ``argv``, without the program's name.

    Raises:
        Rejected: an unknown flag, a flag that is missing or has a bad value, or two that exclude each other.
    """
    flags = _read(argv)
    for name, why in (("aic-hw", "the target"), ("aic-binary-dir", "the output folder")):
        if not flags.get(name):
            raise Rejected(f"Missing option -{name}: it names {why}.")
    _check_pairs(flags)
    _check_sizes(flags)
    command = CommandLine(
        model=_model(flags),
        binary_dir=Path(_text(flags, "aic-binary-dir")),
        hardware=_text(flags, "aic-hw-version") or "2.0",
        num_cores=int(_text(flags, "aic-num-cores")) if "aic-num-cores" in flags else None,
        fp16=bool(flags.get("convert-to-fp16")),
        mxfp6=bool(flags.get("mxfp6-matmul")),
        retained_state=bool(flags.get("retained-state")),
        sub_functions=bool(flags.get("sub-functions")),
        symbols=_symbols(flags.get("onnx-define-symbol", [])),
        specializations=_path(flags, "network-specialization-config"),
        custom_io=_path(flags, "custom-IO-list-file"),
        custom_io_template=_path(flags, "dump-custom-IO-config-template"),
        node_precision=_path(flags, "node-precision-info"),
        partitions=_path(flags, "mdp-load-partition-config"),
        partitions_dump=_path(flags, "mdp-dump-partition-config"),
    )
    if command.hardware not in HARDWARE:
        raise Rejected(f"-aic-hw-version={command.hardware} is unknown; expected one of {', '.join(HARDWARE)}.")
    return command


_Flags = dict[str, object]


def _read(argv: Iterable[str]) -> _Flags:
    flags: _Flags = {}
    for argument in argv:
        name, equals, text = _DASH.sub("", argument, count=1).partition("=")
        if not argument.startswith("-") or name not in SWITCHES | VALUES | UNSIMULATED:
            shown = argument.partition("=")[0]
            raise Rejected(f"Invalid option {shown}. Use -h, -help, or --help for list of options.")
        if name in UNSIMULATED:
            raise Rejected(f"-{name} is an option of the real compiler that the simulator does not compute.")
        if name in SWITCHES:
            if equals and text not in _SWITCH_VALUES:
                raise Rejected(f"-{name}={text}: expected true, false, 1 or 0.")
            flags[name] = _SWITCH_VALUES[text] if equals else True
        elif not equals or not text:
            raise Rejected(f"-{name} needs a value: -{name}=<value>.")
        elif name in _REPEATABLE:
            flags.setdefault(name, []).append(text)  # type: ignore[attr-defined]
        else:
            flags[name] = text
    return flags


def _check_pairs(flags: _Flags) -> None:
    excluded = (
        ("mdp-load-partition-config", "mdp-dump-partition-config"),
        ("network-specialization-config", "aic-preproc"),
        ("m", "model"),
    )
    for one, other in excluded:
        if flags.get(one) and flags.get(other):
            raise Rejected(f"-{one} and -{other} are mutually exclusive.")
    if flags.get("mxfp6-matmul") and not flags.get("convert-to-fp16"):
        raise Rejected("-mxfp6-matmul decompresses to fp16 and needs -convert-to-fp16.")


def _check_sizes(flags: _Flags) -> None:
    cores = _number("aic-num-cores", _text(flags, "aic-num-cores") or str(MAX_CORES), MAX_CORES)
    for name in ("mos", "ols", "mdts-mos"):
        for text in _text(flags, name).split(",") if name in flags else ():
            _number(name, text, cores)
    clusters = _text(flags, "sdp-cluster-sizes")
    if clusters:
        sizes = [_number("sdp-cluster-sizes", text, cores) for text in clusters.split(",")]
        if sum(sizes) != cores or len(sizes) > 4:
            raise Rejected(f"-sdp-cluster-sizes={clusters}: expected at most 4 sizes with a sum of {cores} cores.")


def _number(name: str, text: str, highest: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= highest:
        raise Rejected(f"-{name}={text}: expected a number from 1 to {highest}, the number of cores.")
    return int(text)


def _text(flags: _Flags, name: str) -> str:
    return str(flags.get(name, ""))


def _path(flags: _Flags, name: str) -> Path | None:
    return Path(_text(flags, name)) if name in flags else None


def _model(flags: _Flags) -> Path:
    text = _text(flags, "m") or _text(flags, "model")
    if not text:
        raise Rejected("Missing option -m: it names the ONNX model.")
    return Path(text)


def _symbols(pairs: object) -> dict[str, int]:
    symbols = {}
    for pair in pairs:  # type: ignore[attr-defined]
        name, _, text = str(pair).partition(",")
        if not name or not text.isdecimal() or int(text) < 1:
            raise Rejected(f"-onnx-define-symbol={pair}: expected <symbol>,<size> with a size of at least 1.")
        symbols[name] = int(text)
    return symbols


def usage() -> str:
    """The list of options."""
    lines = ["Usage: qaic-compile -aic-hw -m=<model.onnx> -aic-binary-dir=<folder> [options]", "", "Options:"]
    lines += [f"  -{name}" for name in sorted(SWITCHES)]
    lines += [f"  -{name}=<value>" for name in sorted(VALUES)]
    return "\n".join([*lines, "", "Not simulated:", *(f"  -{name}" for name in sorted(UNSIMULATED))])
