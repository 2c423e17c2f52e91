"""``qefficient export``: from a model to an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags, model_flags, required
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.compat.commands import as_function


@click.command("export", cls=Command)
@model_flags
@flags(Flag(["--export-dir"], metavar="DIR", help="A folder to write to instead of the store."), JSON, *LOGGING)
@compile_flags
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    export_dir: str | None,
    as_json: bool,
    compile_options: dict[str, Any],
) -> None:
    """Export a model as an ONNX graph.

    Prints the path of model.onnx. The graph depends on the target and on some of the compile options.
    """
    model = required(source).load()
    check_options(model, compile_options)
    path = model.export(export_dir, **compile_options)
    if as_json:
        return out.json(_described(path))
    return out.write(str(path))


def _described(path: Path) -> dict[str, Any]:
    from QEfficient.store.manifest import read_artifact

    manifest = read_artifact(path.parent).manifest
    names = ("lowering", "inputs", "outputs", "num_nodes")
    graphs = {name: {key: graph[key] for key in names} for name, graph in manifest.body["graphs"].items()}
    first = next(iter(graphs.values()))
    return {"onnx": str(path), "key": manifest.key, **first, **({"graphs": graphs} if len(graphs) > 1 else {})}


main = as_function(command)

if __name__ == "__main__":
    run(command)
