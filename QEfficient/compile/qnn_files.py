"""What the QNN tools read: JSON and YAML files with upstream's names and contents, and the user's ``qnn_config``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from QEfficient.compile import custom_io, partitions
from QEfficient.compile.custom_io import GraphIO, GraphValue
from QEfficient.contract import CompileJob
from QEfficient.errors import OptionError, nearest

IO_FILE, FORMAT_FILE = "custom_io_config.yaml", "qnn_data_format_config.json"
BACKEND_FILE, CONFIG_FILE, SLICING_FILE = "qnn_compile_backend.json", "qnn_compiler_config.json", "tensor_slicing.json"
CONVERTER_KEY, GENERATOR_KEY = "converter_args_extension", "context_binary_generator_args_extension"
BACKEND_KEY, SKIP_KEY = "qnn_compilation_backend", "SKIP_QNN_CONVERTER_STEP"
_IMMUTABLE = {
    CONVERTER_KEY: (
        "--input_network",
        "--output_path",
        "--config",
        "--float_bias_bitwidth",
        "--float_bitwidth",
        "--preserve_io_datatype",
        "--onnx_skip_simplification",
    ),
    GENERATOR_KEY: (
        "--binary_file",
        "--backend_binary",
        "--output_dir",
        "--backend",
        "--model",
        "--dlc_path",
        "--config_file",
    ),
}
_MODEL = "model"
_DTYPES = {"mxint8": "uint8", "float": "float32"}


def read_qnn_config(path: str | None) -> dict[str, Any]:
    """The settings in the file that the option ``qnn_config`` names; empty without one.

    Raises:
        OptionError: it cannot be read, has an unknown key, or sets an argument that the library sets.
    """
    if path is None:
        return {}
    where = f"qnn_config={path!r}"
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{where} cannot be read: {error}") from error
    known = (*_IMMUTABLE, BACKEND_KEY, SKIP_KEY)
    for key in config if isinstance(config, dict) else [type(config).__name__]:
        if key not in known:
            raise OptionError(f"{where}: unknown '{key}'.{nearest(key, known)} Known: {', '.join(known)}.")
    if not isinstance(config.get(BACKEND_KEY, {}), dict):
        raise OptionError(f"{where}: {BACKEND_KEY} must be settings by name, got {config[BACKEND_KEY]!r}.")
    for key, immutable in _IMMUTABLE.items():
        if not isinstance(config.get(key, ""), str):
            raise OptionError(f"{where}: {key} must be one text of arguments, got {config[key]!r}.")
        arguments = {word.partition("=")[0] for word in shlex.split(config.get(key, ""))}
        if wrong := [argument for argument in immutable if argument in arguments]:
            raise OptionError(f"{where}: {key} may not set {', '.join(wrong)}: the library does. Remove it there.")
    return config


def io_config(io: GraphIO, job: CompileJob) -> dict[str, Any]:
    """Dtype of every binding, and each input's shapes: one, or one per specialization where they differ."""
    precisions = custom_io.state_precisions(io, job)

    def entry(value: GraphValue, **shape: str) -> dict[str, Any]:
        kept = precisions.get(value.name, value.dtype)
        return {"Name": value.name, "Desired Model Parameters": {"DataType": _DTYPES.get(kept, kept), **shape}}

    return {
        "Input Tensor Configuration": [entry(value, Shape=_shapes(value, job)) for value in io.inputs],
        "Output Tensor Configuration": [entry(value) for value in io.outputs],
    }


def _shapes(value: GraphValue, job: CompileJob) -> str:
    shapes = [
        "(" + ", ".join(str(entry.symbols[dim] if isinstance(dim, str) else dim) for dim in value.shape) + ")"
        for entry in job.specializations
    ]
    return ", ".join(dict.fromkeys(shapes))


def graph_names(job: CompileJob) -> list[str]:
    """QNN's name for the graph of each specialization."""
    if len(job.specializations) == 1:
        return [_MODEL]
    return [f"{_MODEL}_configuration_{number}" for number in range(1, len(job.specializations) + 1)]


def backend_config(
    job: CompileJob, config: Mapping[str, Any], has_state: bool, partition_file: str | None
) -> dict[str, Any]:
    """The backend's settings, upstream's defaults with those of ``qnn_config`` over them."""
    options = job.options
    split = {} if options.mos is None else {"compiler_max_out_channel_split": str(options.mos)}
    mdp = {} if partition_file is None else {"compiler_mdp_load_partition_config": partition_file}
    return {
        "compiler_compilation_target": "hardware",
        "compiler_hardware_version": options.aic_hw_version or "2.0",
        "compiler_convert_to_FP16": options.precision != "fp32",
        "compiler_retained_state": has_state,
        "graph_names": graph_names(job),
        "compiler_enable_depth_first": options.aic_enable_depth_first,
        "compiler_mxfp6_matmul_weights": options.mxfp6_matmul,
        "compiler_num_of_cores": options.num_cores,
        "compiler_do_DDR_to_multicast": True,
        "compiler_perfWarnings": False,
        "compiler_printDDRStats": False,
        "compiler_printPerfMetrics": False,
        "compiler_stat_level": 10,
        "compiler_stats_batch_size": 1,
        "compiler_time_passes": False,
        "compiler_mxint8_mdp_io": options.allow_mxint8_mdp_io,
        **split,
        **mdp,
        **config.get(BACKEND_KEY, {}),
    }


def tensor_slices(num_devices: int) -> dict[str, Any]:
    """As for qaic-compile, without the cores, which QNN takes from the backend's settings."""
    sliced = partitions.tensor_slices(num_devices, num_cores=1)
    for device in sliced["partitions"][0]["devices"]:
        del device["numCores"]
    return sliced


def data_format_config(io: GraphIO, job: CompileJob) -> dict[str, Any]:
    """Which tensors are in MXINT8; QNN writes their names with "_" for "."."""
    names = [name for name, kept in custom_io.state_precisions(io, job).items() if kept == "mxint8"]
    tensors = [{"tensor_name": name.replace(".", "_"), "dataFormat": "QNN_TENSOR_DATA_FORMAT_MX"} for name in names]
    return {"graphs": [{"graph_name": graph, "tensors": tensors} for graph in graph_names(job)]}
