"""``qefficient compile``: from a model to a package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags
from QEfficient.cloud.model_args import (
    ADAPTER,
    ModelSource,
    check_importable,
    check_options,
    compile_flags,
    model_flags,
    read_adapters,
    required,
)
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.stored_package import stored_or_compiled
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.compat.commands import as_function
from QEfficient.contract import COMMAND_FILE

_FLAGS = (
    Flag(
        ["compile_dir", "--compile-dir", "--qpc-path"], metavar="DIR", help="A folder to write to instead of the store."
    ),
    ADAPTER,
    Flag(
        ["--onnx-path"],
        metavar="FILE",
        help="A graph that export wrote, to compile without its model; the package has no tokenizer then.",
    ),
    JSON,
    CONFIG,
    *LOGGING,
)


@click.command("compile", cls=Command)
@model_flags
@flags(*_FLAGS)
@compile_flags
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    compile_dir: str | None,
    onnx_path: str | None,
    adapter: tuple[str, ...],
    as_json: bool,
    compile_options: dict[str, Any],
) -> None:
    """Compile a model for a target.

    Prints the package's folder. A graph that was exported before is taken from the store. With --dry-run nothing is
    compiled: prints the folder with the compiler's input files, then its command.
    """
    if onnx_path is not None and source is None:
        package = _package_of_graph(onnx_path, compile_dir, compile_options)
    else:
        package = _package(required(source, read_adapters(adapter)), compile_dir, compile_options, onnx_path)
    if compile_options.get("dry_run"):
        return _show_command(out, package, as_json)
    if as_json:
        return out.json(_described(package))
    return out.write(str(package))


def _package(
    source: ModelSource, compile_dir: str | None, compile_options: dict[str, Any], onnx_path: str | None
) -> Path:
    if compile_dir is None and onnx_path is None:
        return stored_or_compiled(source, compile_options)
    model = source.load()
    check_options(model, compile_options)
    graph = {} if onnx_path is None else {"onnx_path": onnx_path}
    return model.compile(compile_dir, **graph, **compile_options)


def _package_of_graph(onnx_path: str, compile_dir: str | None, compile_options: dict[str, Any]) -> Path:
    check_importable()
    from QEfficient.transformers.models.graph import open_graph

    model = open_graph(onnx_path)
    check_options(model, compile_options)
    return model.compile(compile_dir, **compile_options)


def _show_command(out: Output, folder: Path, as_json: bool) -> None:
    compiler_command = (folder / COMMAND_FILE).read_text(encoding="utf-8").strip()
    if as_json:
        return out.json({"folder": str(folder), "command": compiler_command})
    return out.write(f"{folder}\n{compiler_command}")


def _described(package: Path) -> dict[str, Any]:
    from QEfficient.generation.package import read_body
    from QEfficient.store.manifest import read_artifact

    artifact = read_artifact(package)
    manifest, body = artifact.manifest, read_body(artifact)
    size = sum(record.size for record in manifest.files.values())
    graphs = {name: {"inputs": graph["inputs"], "outputs": graph["outputs"]} for name, graph in _graphs(manifest.body)}
    about = {name: getattr(body, name) for name in ("task", "target", "architecture", "lowering", "options")}
    first = next(iter(graphs.values()))
    return {
        "package": str(package),
        "key": manifest.key,
        "size_bytes": size,
        **about,
        **first,
        **({"graphs": graphs} if len(graphs) > 1 else {}),
    }


def _graphs(body: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    graphs: dict[str, dict[str, Any]] = body["graphs"]
    return graphs.items()


main = as_function(command)

if __name__ == "__main__":
    run(command)
