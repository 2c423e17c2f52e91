"""ONNX to a program for Cloud AI 100 through the QNN SDK: a converter makes a DLC, a generator the program of it.

The result is the same package as that of :mod:`QEfficient.compile.qaic_compiler`. File names, arguments and what a
``qnn_config`` may hold are upstream's.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from QEfficient.compile import custom_io, partitions, qnn_files, specializations
from QEfficient.compile.child_process import LOG_FILE, run_compiler
from QEfficient.compile.custom_io import GraphIO
from QEfficient.compile.qnn_files import read_qnn_config
from QEfficient.compile.qpc import QPC_FILE, QPC_FOLDER, check_qpc, claim_folder
from QEfficient.contract import CompiledGraph, CompileJob, Specialization
from QEfficient.errors import CompileError, OptionError, TargetUnavailable
from QEfficient.options import HONOURED, IGNORED, CausalLMCompileOptions
from QEfficient.store.files import user_path

logger = logging.getLogger(__name__)

ENVIRONMENT = "QNN_SDK_ROOT"
_HOST = "x86_64-linux-clang"
_DLC = "model.dlc"


@dataclass(frozen=True)
class QnnCompiler:
    """See :class:`QEfficient.contract.Compiler`."""

    qnn_config: str | None
    """The option of that name."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the file of ``qnn_config`` says, read once."""
        return read_qnn_config(self.qnn_config)

    def check(self, job: CompileJob) -> None:
        check(job, self.config)

    def key(self, job: CompileJob) -> dict[str, Any]:
        return key_ingredients(job, self.config)

    def compile(self, onnx_path: Path, folder: Path, job: CompileJob) -> CompiledGraph:
        return compile_onnx(onnx_path, folder, job, self.config)


def sdk_root() -> Path:
    """The QNN SDK's folder.

    Raises:
        TargetUnavailable: QNN_SDK_ROOT is not set, or has no converter under it.
    """
    variable = os.environ.get(ENVIRONMENT)
    if not variable:
        raise TargetUnavailable(
            f"enable_qnn=True needs the QNN SDK (Qualcomm AI Engine Direct): install it, and set {ENVIRONMENT} to its "
            "folder."
        )
    root = _root()
    if not _tool(root, "qairt-converter").is_file():
        raise TargetUnavailable(
            f"{ENVIRONMENT}={variable} holds no bin/{_HOST}/qairt-converter: set it to the folder of an SDK with one."
        )
    return root


def _root() -> Path:
    """Where the SDK would be; a dry run says the variable's name where it is not set."""
    variable = os.environ.get(ENVIRONMENT)
    return user_path(variable, ENVIRONMENT) if variable else Path(f"${ENVIRONMENT}")


def _tool(root: Path, name: str) -> Path:
    return root / "bin" / _HOST / name


def toolchain() -> dict[str, str]:
    """Versions that decide the result."""
    import yaml

    try:
        content = yaml.safe_load((_root() / "sdk.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    version = content.get("version") if isinstance(content, dict) else None
    return {"compiler": "qnn", "qnn_sdk": str(version or "unknown")}


def check(job: CompileJob, config: Mapping[str, Any]) -> None:
    """Check everything that does not need the graph.

    Args:
        job: what to make.
        config: the settings of ``qnn_config``.

    Raises:
        OptionError: an option that QNN does not have.
        TargetUnavailable: there is no QNN SDK (which ``dry_run`` does without).
    """
    if not job.options.dry_run:
        sdk_root()
    for name in (item.name for item in fields(job.options)):
        support = type(job.options).support(name, "qnn")
        if support not in (None, HONOURED, IGNORED) and job.option(name):
            raise OptionError(f"{name} cannot be honoured by QNN: {support}.")
    if job.options.mdp_num_partitions > 1:
        raise OptionError(
            "mdp_num_partitions: a pipeline through QNN needs a partition file in mdp_load_partition_config."
        )
    if not 1 <= len(job.specializations) <= 2:
        names = ", ".join(specializations.unique_names(job.specializations))
        raise OptionError(f"QNN takes one or two specializations, this job has {len(job.specializations)}: {names}.")
    custom_io.check_formats(job)
    partitions.check_partition_options(job)


def compile_onnx(onnx_path: Path, folder: Path, job: CompileJob, config: Mapping[str, Any]) -> CompiledGraph:
    """Compile ``onnx_path`` into ``folder/qpc``; as :func:`QEfficient.compile.qaic_compiler.compile_onnx`.

    Args:
        onnx_path: the graph.
        folder: an existing folder.
        job: what to make; checked.
        config: the settings of ``qnn_config``.

    Raises:
        OptionError: two specializations are one.
        TargetUnavailable: there is no QNN SDK.
        CompileError: one of the tools failed.
    """
    io = custom_io.read_graph_io(onnx_path)
    commands = prepare(onnx_path, folder, io, job, config)
    compiled = custom_io.bindings(io, job)
    if job.options.dry_run:
        text = " && ".join(shlex.join(command) for command in commands)
        logger.info("Not run: %s", text)
        return replace(compiled, command=text)
    _run(commands, folder, job)
    return compiled


def _run(commands: Sequence[list[str]], folder: Path, job: CompileJob) -> None:
    program = claim_folder(folder)
    *convert, generate = commands
    for command in convert:
        run_compiler(command, log=folder / "convert.log", output=folder / _DLC)
    if not (folder / _DLC).is_file():
        raise CompileError(
            f"{qnn_files.SKIP_KEY} needs the converted model of an earlier run, and {folder / _DLC} is not there."
        )
    program.parent.mkdir()
    run_compiler(generate, log=folder / LOG_FILE, output=program)
    check_qpc(program, job)


def prepare(onnx_path: Path, folder: Path, io: GraphIO, job: CompileJob, config: Mapping[str, Any]) -> list[list[str]]:
    """Write what the two tools read into ``folder`` and return their commands, in order.

    Raises:
        OptionError: two specializations are one.
        CompileError: the graph and the job do not fit together.
    """
    import yaml

    root = _root()
    specializations.check_specializations(job, io.inputs)
    io_text = yaml.safe_dump(qnn_files.io_config(io, job), sort_keys=False)
    (folder / qnn_files.IO_FILE).write_text(io_text, encoding="utf-8")
    slicing = job.options.mdp_load_partition_config
    if slicing is None and job.options.num_devices > 1:
        slicing = str(folder / qnn_files.SLICING_FILE)
        _write_json(folder / qnn_files.SLICING_FILE, qnn_files.tensor_slices(job.options.num_devices))
    _write_json(folder / qnn_files.BACKEND_FILE, qnn_files.backend_config(job, config, bool(io.state), slicing))
    library = root / "lib" / _HOST / "libQnnAicNetRunExtensions.so"
    extension = {"config_file_path": str(folder / qnn_files.BACKEND_FILE), "shared_library_path": str(library)}
    _write_json(folder / qnn_files.CONFIG_FILE, {"backend_extensions": extension})
    is_mx = "mxint8" in custom_io.state_precisions(io, job).values()
    if is_mx:
        _write_json(folder / qnn_files.FORMAT_FILE, qnn_files.data_format_config(io, job))
    extra = {key: shlex.split(config.get(key, "")) for key in (qnn_files.CONVERTER_KEY, qnn_files.GENERATOR_KEY)}
    convert = converter_command(onnx_path, folder, job, root, extra[qnn_files.CONVERTER_KEY])
    generate = generator_command(folder, root, extra[qnn_files.GENERATOR_KEY], is_mx=is_mx)
    return [generate] if config.get(qnn_files.SKIP_KEY) else [convert, generate]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def converter_command(
    onnx_path: Path, folder: Path, job: CompileJob, root: Path, extra: Sequence[str] = ()
) -> list[str]:
    """ONNX to DLC; ``extra``: arguments of the user."""
    return [
        *(str(_tool(root, "qairt-converter")), "--input_network", str(onnx_path)),
        *("--output_path", str(folder / _DLC), "--config", str(folder / qnn_files.IO_FILE)),
        *("--float_bias_bitwidth", "32", "--float_bitwidth", "32" if job.options.precision == "fp32" else "16"),
        *("--preserve_io_datatype", "--onnx_skip_simplification", "--target_backend", "AIC"),
        *extra,
    ]


def generator_command(folder: Path, root: Path, extra: Sequence[str] = (), *, is_mx: bool) -> list[str]:
    """DLC to program; ``extra``: arguments of the user; ``is_mx``: some state is in MXINT8."""
    has_level = any(word.partition("=")[0] == "--log_level" for word in extra)
    return [
        *(str(_tool(root, "qnn-context-binary-generator")), "--binary_file", "qnngraph.serialized"),
        *("--backend_binary", QPC_FILE, "--output_dir", str(folder / QPC_FOLDER)),
        *("--backend", str(root / "lib" / _HOST / "libQnnAic.so"), "--dlc_path", str(folder / _DLC)),
        *("--config_file", str(folder / qnn_files.CONFIG_FILE)),
        *(("--data_format_config", str(folder / qnn_files.FORMAT_FILE)) if is_mx else ()),
        *(() if has_level else ("--log_level", "error")),
        *extra,
    ]


def key_ingredients(job: CompileJob, config: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what a job's compilation makes of a graph, without paths: files take part by their content."""
    from QEfficient.store.digests import hash_file

    options = job.options
    partition_file = options.mdp_load_partition_config
    named = zip(specializations.unique_names(job.specializations), job.specializations, strict=True)
    return {
        **toolchain(),
        "backend": qnn_files.backend_config(job, config, True, None),
        "qnn_config": dict(config),
        "precision": options.precision,
        "mxint8_kv_cache": bool(job.option("mxint8_kv_cache")),
        "specializations": [[name, dict(entry.symbols)] for name, entry in named],
        "partitions": {"sha256": hash_file(partition_file)[0]} if partition_file else options.num_devices,
        "dry_run": options.dry_run,
    }


def compile(
    onnx_path: str | os.PathLike[str],
    qpc_path: str | os.PathLike[str],
    num_cores: int,
    device_group: Sequence[int] | None = None,
    *,
    aic_enable_depth_first: bool = False,
    mos: int = -1,
    batch_size: int = 1,
    prompt_len: int = 32,
    ctx_len: int = 128,
    mxfp6: bool = True,
    mxint8: bool = False,
    allow_mxint8_mdp_io: bool = False,
    full_batch_size: int | None = None,
    kv_cache_batch_size: int | None = None,
    qnn_config: str | None = None,
    symbols: Mapping[str, int] | None = None,
) -> str:
    """Upstream's function of this module: compile a causal LM's graph for one prompt length.

    Args:
        onnx_path: the graph.
        qpc_path: the folder to write into; created if it does not exist.
        num_cores: and the rest: as in :class:`QEfficient.options.CausalLMCompileOptions`, ``mos=-1`` for None.
        device_group: only its length matters.
        symbols: sizes of further axes of the graph.

    Returns:
        The folder with ``programqpc.bin``.

    Raises:
        OptionError, TargetUnavailable, CompileError: see :func:`compile_onnx`.
    """
    options = CausalLMCompileOptions(
        num_devices=len(device_group or [0]),
        num_cores=num_cores,
        aic_enable_depth_first=aic_enable_depth_first,
        mos=None if mos == -1 else mos,
        batch_size=batch_size,
        prefill_seq_len=prompt_len,
        ctx_len=ctx_len,
        mxfp6_matmul=mxfp6,
        mxint8_kv_cache=mxint8,
        allow_mxint8_mdp_io=allow_mxint8_mdp_io,
        full_batch_size=full_batch_size,
        kv_cache_batch_size=kv_cache_batch_size,
        enable_qnn=True,
        qnn_config=qnn_config,
    )
    folder = Path(qpc_path)
    job = CompileJob(specializations=_specializations(options, symbols or {}), options=options)
    compiler = QnnCompiler(qnn_config)
    compiler.check(job)
    folder.mkdir(parents=True, exist_ok=True)
    compiler.compile(Path(onnx_path), folder, job)
    return str(folder / QPC_FOLDER)


def _specializations(options: CausalLMCompileOptions, further: Mapping[str, int]) -> tuple[Specialization, ...]:
    rows = options.kv_cache_batch_size or options.full_batch_size
    shared = {"ctx_len": options.ctx_len, **({"full_batch_size": rows} if rows else {}), **further}
    prompt_len = options.prefill_seq_len or 1
    prefill = {"batch_size": 1 if rows else options.batch_size, "seq_len": prompt_len, **shared}
    decode = {"batch_size": options.num_slots, "seq_len": 1, **shared}
    both = (Specialization(name="Prefill", symbols=prefill), Specialization(name="Decode", symbols=decode))
    return both if prefill != decode else both[1:]
