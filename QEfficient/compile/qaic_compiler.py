"""ONNX to a program for Cloud AI 100, by the SDK's command-line compiler.

:func:`prepare` writes what the compiler reads and gives its command; :func:`compile_onnx` runs it too. The order of
the arguments is upstream's, so that the two can be compared line by line.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from QEfficient.compile import custom_io, partitions, specializations
from QEfficient.compile.child_process import LOG_FILE, Advice, run_compiler
from QEfficient.compile.node_precision import check_node_names, read_node_precision_info
from QEfficient.compile.qaic_sdk import COMPILERS, DEFAULT_ROOT, QaicSDK, version_pair, why_unavailable
from QEfficient.compile.qpc import QPC_FOLDER, VERIFY_KEY, check_qpc, claim_folder
from QEfficient.contract import CompiledGraph, CompileJob
from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.store.digests import hash_file

logger = logging.getLogger(__name__)

OWN_KEYS = frozenset({specializations.FORM_KEY, VERIFY_KEY})
"""Keys of ``compiler_options`` that this module reads; the compiler does not get them."""
_AI100_NAMED_SINCE = (1, 20)

_OWNERS = {
    "aic-hw": "target",
    "aic-hw-version": "aic_hw_version",
    "m": None,
    "model": None,
    "retained-state": None,
    "convert-to-fp16": "precision",
    "mxfp6-matmul": "mxfp6_matmul",
    "aic-num-cores": "num_cores",
    "aic-enable-depth-first": "aic_enable_depth_first",
    "mos": "mos",
    "allow-mxint8-mdp-io": "allow_mxint8_mdp_io",
    "node-precision-info": "node_precision_info",
    "sub-functions": "use_onnx_subfunctions",
    "mdp-load-partition-config": "mdp_load_partition_config",
    "network-specialization-config": None,
    "custom-io-list-file": None,
    "compile-only": None,
    "aic-binary-dir": None,
}
"""The compiler's options that the library sets, each with the option of ``compile`` that decides it, if any."""

ADVICE: tuple[Advice, ...] = (
    (
        r"Invalid option (\S+?)\.? ",
        r"This SDK's compiler does not know \1: it is older than the option. Update the Apps SDK, or leave it out.",
    ),
    (
        r"json\.exception\.type_error\.302",
        "The compiler does not read this form of specializations.json, most likely because the SDK is older than 1.22: "
        f"give compiler_options={{'{specializations.FORM_KEY}': 'flat'}} ('named' if it was flat), or update the SDK.",
    ),
    (
        r"No input that uniquely identifies specialization",
        "Two specializations have the same input shapes, by which the card tells them apart: drop one.",
    ),
    (
        r"Indices and updates must have same lengths",
        "This SDK is too old for the way that the graph writes its state: update the Apps SDK.",
    ),
)


@dataclass(frozen=True)
class QaicCompiler:
    """See :class:`QEfficient.contract.Compiler`."""

    sdk: QaicSDK | None
    """Whose compiler; None: it is not installed, and only a dry run works."""

    def check(self, job: CompileJob) -> None:
        check(job, self.sdk)

    def key(self, job: CompileJob) -> dict[str, Any]:
        return key_ingredients(job, self.sdk)

    def compile(self, onnx_path: Path, folder: Path, job: CompileJob) -> CompiledGraph:
        return compile_onnx(onnx_path, folder, job, self.sdk)


def toolchain(sdk: QaicSDK | None) -> dict[str, str]:
    """Versions that decide the result."""
    return {"compiler": _compiler(sdk).name, "qaic_sdk": (sdk.version if sdk else None) or "unknown"}


def compile_onnx(onnx_path: Path, folder: Path, job: CompileJob, sdk: QaicSDK | None) -> CompiledGraph:
    """Compile ``onnx_path`` into ``folder/qpc``, beside the files that the compiler read and its log.

    With ``dry_run`` the compiler is not run and need not be installed; the result has its command as ``command``.

    Raises:
        OptionError: the options contradict each other or the graph.
        TargetUnavailable: there is no SDK.
        CompileError: the compiler failed; says what it said and what to do.
    """
    arguments = prepare(onnx_path, folder, job, sdk)
    compiled = custom_io.bindings(custom_io.read_graph_io(onnx_path), job)
    if job.options.dry_run:
        logger.info("Not run: %s", shlex.join(arguments))
        return replace(compiled, command=shlex.join(arguments))
    program = claim_folder(folder)
    custom_io.keep_node_precision_info(folder, job)
    run_compiler(arguments, log=folder / LOG_FILE, output=program, advice=ADVICE)
    check_qpc(program, job)
    return compiled


def prepare(onnx_path: Path, folder: Path, job: CompileJob, sdk: QaicSDK | None) -> list[str]:
    """Write what the compiler reads into ``folder``, checked against the graph, and return its command.

    Raises:
        OptionError: two specializations are equal, a partition file does not fit, or the library sets a raw option.
        CompileError: the graph and the job do not fit together.
    """
    io = custom_io.read_graph_io(onnx_path)
    specializations.check_specializations(job, io.inputs)
    specializations.write_specializations(folder, job, sdk.version if sdk else None)
    has_formats = custom_io.write_custom_io(folder, io, job) is not None
    partitions.write_partitions(folder, onnx_path, job)
    if job.options.node_precision_info is not None:
        check_node_names(Path(job.options.node_precision_info), onnx_path)
    return command(onnx_path, folder, job, sdk, has_state=bool(io.state), has_formats=has_formats)


def command(
    onnx_path: Path,
    folder: Path,
    job: CompileJob,
    sdk: QaicSDK | None,
    *,
    has_state: bool = True,
    has_formats: bool = True,
) -> list[str]:
    """The compiler's command. Reads and writes no file; asks the cards for the chip unless ``aic_hw_version`` is set.

    Args:
        onnx_path: the graph.
        folder: where the files of :func:`prepare` are, and ``qpc`` will be.
        job: what to make.
        sdk: whose compiler; None: the newest's, in the default place.
        has_state: whether the graph keeps state on the card.
        has_formats: whether some of it has a format to choose: whole numbers have none.
    """
    compiler, partition = _compiler(sdk), partitions.partition_file(folder, job)
    load = [] if partition is None else [f"-mdp-load-partition-config={partition}"]
    is_sliced = job.options.mdp_load_partition_config is None and job.options.mdp_num_partitions == 1
    return [
        str(compiler),
        "-aic-hw",
        f"-aic-hw-version={hw_version(job, sdk)}",
        f"-m={onnx_path}",
        *([] if is_sliced else load),
        *as_arguments(compiler_flags(job, has_state=has_state)),
        *(["-sub-functions"] if job.options.use_onnx_subfunctions else []),
        *(load if is_sliced else []),
        f"-network-specialization-config={folder / specializations.FILE}",
        *([f"-custom-IO-list-file={folder / custom_io.FILE}"] if has_formats else []),
        # The deprecated compiler would go on to run the network with random data.
        *(["-compile-only"] if compiler.name == COMPILERS[1] else []),
        f"-aic-binary-dir={folder / QPC_FOLDER}",
    ]


def _compiler(sdk: QaicSDK | None) -> Path:
    return (sdk.compiler if sdk else None) or (sdk.root if sdk else DEFAULT_ROOT) / "exec" / COMPILERS[0]


def hw_version(job: CompileJob, sdk: QaicSDK | None) -> str:
    """The chip as this SDK spells it: ``aic_hw_version``, else that of the cards here; AI 100 is "2.0" before 1.20."""
    if job.options.aic_hw_version is not None:
        return job.options.aic_hw_version
    chip = sdk.hw_version() if sdk else "ai100"
    version = version_pair(sdk.version) if sdk else None
    return "2.0" if chip == "ai100" and version is not None and version < _AI100_NAMED_SINCE else chip


def compiler_flags(job: CompileJob, *, has_state: bool = True) -> dict[str, Any]:
    """The options between the model and the files, in upstream's order, then the raw ones of ``compiler_options``.

    Raises:
        OptionError: a raw one repeats one that the library sets, or has a value that no command line can hold.
    """
    options = job.options
    return {
        "retained-state": has_state,
        "convert-to-fp16": options.precision != "fp32",
        "mxfp6-matmul": options.mxfp6_matmul,
        "aic-num-cores": options.num_cores,
        "aic-enable-depth-first": options.aic_enable_depth_first,
        "mos": options.mos,
        "allow-mxint8-mdp-io": options.allow_mxint8_mdp_io,
        "node-precision-info": options.node_precision_info,
        **_raw_flags(options.compiler_options),
    }


def _raw_flags(compiler_options: Mapping[str, Any]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for key, value in compiler_options.items():
        name = str(key).lstrip("-_").replace("_", "-")
        if key in OWN_KEYS:
            continue
        if name.lower() in _OWNERS:
            owner = _OWNERS[name.lower()]
            instead = f"use {owner}" if owner else "leave it out"
            raise OptionError(f"compiler_options: '{key}' is set by the library: {instead}.")
        if name in flags:
            raise OptionError(f"compiler_options: '{key}' is set twice, in two spellings.")
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if value is not None and not isinstance(value, bool | int | float | str | Path):
            raise OptionError(f"compiler_options: '{key}' must be a text, a number or a bool, got {value!r}.")
        flags[name] = value
    return flags


@cache
def raw_flag_names() -> frozenset[str]:
    """Flags of the compiler that no option of ``compile`` sets, spelt as keywords."""
    from QEfficient.simulator.compiler.command_line import SWITCHES, UNSIMULATED, VALUES

    return frozenset(flag.replace("-", "_") for flag in (SWITCHES | VALUES | UNSIMULATED) - _OWNERS.keys())


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """``-key=value``; ``-key`` for True; nothing for False and None."""
    return [f"-{key}" if value is True else f"-{key}={value}" for key, value in flags.items() if _is_set(value)]


def _is_set(value: Any) -> bool:
    return value is not False and value is not None


def check(job: CompileJob, sdk: QaicSDK | None) -> None:
    """Check everything that does not need the graph.

    Raises:
        OptionError: an option is impossible, contradicts another, or names a file that is not as it should be.
        TargetUnavailable: there is no compiler (which ``dry_run`` does without).
    """
    problem = why_unavailable(sdk.root) if sdk else why_unavailable() or "no SDK was passed"
    if problem and not job.options.dry_run:
        raise TargetUnavailable(f"Nothing can be compiled for Cloud AI 100: {problem}.")
    flags = compiler_flags(job)
    specializations.specialization_form(job, sdk.version if sdk else None)
    custom_io.check_formats(job)
    partitions.check_partition_options(job)
    if "mdp-dump-partition-config" in flags and partitions.partition_file(Path(), job):
        raise OptionError(
            "mdp_dump_partition_config writes a partition file, and this job reads one: leave out either."
        )
    if job.options.node_precision_info:
        read_node_precision_info(Path(job.options.node_precision_info))
    if sdk is not None:
        _check_cores(job, sdk)


def _check_cores(job: CompileJob, sdk: QaicSDK) -> None:
    try:
        devices = [device for device in sdk.devices() if device.nsp_total]
    except TargetUnavailable as problem:
        logger.warning("Not checked against the cards here: %s", problem)
        return
    largest = max(devices, key=lambda device: device.nsp_total or 0, default=None)
    if largest and largest.nsp_total and largest.nsp_total < job.options.num_cores:
        raise OptionError(
            f"num_cores={job.options.num_cores}: the card here (QID {largest.qid}, {largest.sku or 'unknown SKU'}) has "
            f"{largest.nsp_total}. Give at most that."
        )


def key_ingredients(job: CompileJob, sdk: QaicSDK | None) -> dict[str, Any]:
    """All that decides what a job's compilation makes of a graph, without paths: files take part by their content."""
    options = job.options
    partition_file = options.mdp_load_partition_config
    return {
        **toolchain(sdk),
        "hw_version": hw_version(job, sdk),
        "flags": {key: _content(value) for key, value in compiler_flags(job).items() if _is_set(value)},
        "sub_functions": options.use_onnx_subfunctions,
        "specializations": [[name, dict(entry.symbols)] for name, entry in _named(job)],
        "specialization_form": specializations.specialization_form(job, sdk.version if sdk else None),
        "mxint8_kv_cache": bool(job.option("mxint8_kv_cache")),
        "partitions": _content(partition_file) if partition_file else [options.num_devices, options.mdp_num_partitions],
        "dry_run": options.dry_run,
    }


def _named(job: CompileJob) -> list[tuple[str, Any]]:
    return list(zip(specializations.unique_names(job.specializations), job.specializations, strict=True))


def _content(value: Any) -> Any:
    """The digest of the file that ``value`` names, or ``value`` where it names none."""
    is_file = isinstance(value, str | Path) and str(value) and Path(value).is_file()
    return {"sha256": hash_file(value)[0]} if is_file else str(value) if isinstance(value, Path) else value
