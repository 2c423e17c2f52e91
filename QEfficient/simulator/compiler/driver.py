"""``qaic-compile`` for the simulated card: the same command line, and a container that only the simulator runs.

``QEFF_SIM_MX`` chooses the MXFP6 variant of ``-mxfp6-matmul``: "aic" (default) or "ocp".
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.simulator.compiler import command_line
from QEfficient.simulator.compiler.command_line import CommandLine
from QEfficient.simulator.compiler.configuration import Configuration, NodePrecision, Partitions, read_configuration
from QEfficient.simulator.container import FILE_NAME
from QEfficient.simulator.rejection import Rejected
from QEfficient.simulator.runtime.devices import MAX_CORES
from QEfficient.simulator.versions import DEFAULT_VERSION, parse_version

if TYPE_CHECKING:
    import onnx_ir as ir

    from QEfficient.simulator.compiler.program import Lowering
    from QEfficient.simulator.description import Binding, ProgramOptions


def main(argv: Sequence[str], sdk_version: str = DEFAULT_VERSION) -> int:
    """Run the compiler.

    Args:
        argv: the arguments after the program's name.
        sdk_version: SDK version to behave as; named specializations need 1.22.

    Returns:
        The exit code; messages are on stderr.
    """
    words = {word.lstrip("-") for word in argv}
    if words & {"h", "help", "usage"}:
        print(command_line.usage())
        return 0
    if words & {"version", "version-extended"}:
        print(f"qaic-compile {sdk_version} (simulator)")
        return 0
    try:
        compile_program(command_line.parse(argv), sdk_version)
    except Rejected as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"QAICException: {error}", file=sys.stderr)
        return 1
    return 0


def compile_program(command: CommandLine, sdk_version: str = DEFAULT_VERSION) -> Path:
    """Compile, and publish the folder whole or not at all.

    Returns:
        The written ``programqpc.bin``.

    Raises:
        Rejected: the command, a configuration or the graph breaks a rule of the compiler.
    """
    if command.binary_dir.exists():
        raise Rejected(f"-aic-binary-dir {command.binary_dir} exists already: remove it or name another folder.")
    configuration = read_configuration(command, parse_version(sdk_version))
    model = _load(command.model)
    return _compile(command, configuration, model, sdk_version)


def _compile(command: CommandLine, configuration: Configuration, model: ir.Model, sdk_version: str) -> Path:
    from QEfficient.simulator.compiler import graph_rules
    from QEfficient.simulator.compiler.bindings import bind
    from QEfficient.simulator.compiler.program import lower
    from QEfficient.simulator.passes.expand import expand

    bindings = bind(
        model,
        configuration.specializations,
        configuration.custom_io,
        retained_state=command.retained_state,
        hardware=command.hardware,
    )
    graph_rules.check_functions(model, command.sub_functions)
    _dump(command, model, bindings)
    expand(model)
    _warn_unknown_nodes(model, configuration.precision)
    graph_rules.check_graph(model)
    fp16_inputs = frozenset(b.name for b in bindings if b.is_input and (b.is_state or b.precision == "float16"))
    overflowed = lower(model, _lowering(command, configuration), fp16_inputs)
    options = _options(command, configuration.partitions, model, bindings, sdk_version)
    return _publish(command, model, options, overflowed)


def _lowering(command: CommandLine, configuration: Configuration) -> Lowering:
    from QEfficient.simulator.compiler.program import Lowering
    from QEfficient.simulator.passes.precision import Policy

    variant = os.environ.get("QEFF_SIM_MX", "aic") if command.mxfp6 else None
    if variant not in (None, "aic", "ocp"):
        raise Rejected(f"QEFF_SIM_MX is {variant!r}; expected aic or ocp.")
    return Lowering(policy=Policy(fp16=command.fp16, nodes=configuration.precision), mxfp6_variant=variant)


def _options(
    command: CommandLine, partitions: Partitions, model: ir.Model, bindings: list[Binding], sdk_version: str
) -> ProgramOptions:
    from QEfficient.simulator.compiler.bindings import state_input
    from QEfficient.simulator.compiler.program import weight_bytes
    from QEfficient.simulator.description import ProgramOptions, memory

    retained = {b.name: str(state_input(b.name)) for b in bindings if b.is_state and not b.is_input}
    return ProgramOptions(
        sdk_version=sdk_version,
        num_cores=partitions.num_cores or MAX_CORES,
        num_devices=partitions.num_devices,
        fp16=command.fp16,
        bindings=bindings,
        weight_bytes=weight_bytes(model),
        retained=retained,
        **memory(bindings, retained),
    )


def _load(path: Path) -> ir.Model:
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise Rejected(f"Cannot open the model {path}: no such file.")
    try:
        return ir.load(path)
    except DecodeError as error:
        raise Rejected(f"{path} is not an ONNX model: {error}") from error


def _warn_unknown_nodes(model: ir.Model, precision: NodePrecision) -> None:
    if precision.fp32 or precision.fp16:
        nodes = [node for graph in (model.graph, *model.graph.subgraphs()) for node in graph]
        known = {value.name for node in nodes for value in node.outputs} | set(model.graph.initializers)
        for name in sorted((precision.fp32 | precision.fp16) - known):
            print(f"Warning: -node-precision-info names {name}, which no node of the graph gives.", file=sys.stderr)


def _dump(command: CommandLine, model: ir.Model, bindings: list[Binding]) -> None:
    if command.custom_io_template:
        entries = [
            f" - IOName: {binding.name}\n" + ("" if binding.is_integer else f"   Precision: {binding.precision}\n")
            for binding in bindings
        ]
        command.custom_io_template.write_text("\n".join(entries), encoding="utf-8")
    if command.partitions_dump:
        partition = {
            "name": "Partition0",
            "devices": [{"deviceId": 0, "numCores": command.num_cores or MAX_CORES}],
            "nodeList": [node.name for node in model.graph],
        }
        content = json.dumps({"connections": [], "partitions": [partition]})
        command.partitions_dump.write_text(content, encoding="utf-8")


def _publish(command: CommandLine, model: ir.Model, options: ProgramOptions, overflowed: list[str]) -> Path:
    from QEfficient.simulator.compiler.program import write_program
    from QEfficient.store.files import sync_folder

    folder = command.binary_dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    temporary.mkdir()
    try:
        write_program(temporary / FILE_NAME, model, options, command.model.stem, command.specializations is not None)
        sync_folder(temporary)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    for name in overflowed:
        print(f"Warning: constant {name} has values beyond ±65504, which are infinite in fp16.", file=sys.stderr)
    return folder / FILE_NAME
