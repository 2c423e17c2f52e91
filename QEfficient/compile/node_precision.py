"""The file that names nodes to compute in fp32 or in fp16, and whether they are in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.errors import OptionError, nearest

if TYPE_CHECKING:
    import onnx

KEYS = ("FP32NodeInstanceNames", "FP16NodeInstanceNames")


def read_node_precision_info(path: Path) -> dict[str, list[str]]:
    """A file for ``node_precision_info``: the nodes, by their first output's names, to compute in fp32 or in fp16.

    Raises:
        OptionError: there is no such file, or it is not of this form.
    """
    import yaml

    form = f"expected lists of names under {' and/or '.join(KEYS)}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(f"node_precision_info={str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content or not content.keys() <= {*KEYS}:
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise OptionError(f"node_precision_info={str(path)!r}: {form}, got {keys or 'nothing'}.")
    for key, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise OptionError(f"node_precision_info={str(path)!r}: {form}, got {names!r} under {key}.")
    return content


def check_node_names(path: Path, onnx_path: Path) -> None:
    """Check that a graph has the nodes of a file.

    Raises:
        OptionError: one is not in the graph, so that the compiler would leave it as it is; says which is nearest.
    """
    import onnx

    model = onnx.load(onnx_path, load_external_data=False)
    known, calls = {*_names(model)}, _calls(model)
    listed = [name for names in read_node_precision_info(path).values() for name in names]
    missing = [name for name in listed if name not in known and not name.startswith(calls)]
    if missing:
        more = f" (and {len(missing) - 3} more)" if len(missing) > 3 else ""
        raise OptionError(
            f"node_precision_info={str(path)!r}: the graph has no {', '.join(missing[:3])}{more}."
            f"{nearest(missing[0], known)} It may be of another model, or of other options: 'qefficient verify' writes "
            "the file for a package."
        )


def _names(model: onnx.ModelProto) -> Iterator[str]:
    """Of everything that a file may name: values, nodes and weights, those inside functions too."""
    yield from (tensor.name for tensor in model.graph.initializer)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            yield node.name
            yield from (*node.input, *node.output)


def _calls(model: onnx.ModelProto) -> tuple[str, ...]:
    """How names begin of what is inside a call of a function once the compiler puts its body there."""
    functions = {(function.domain, function.name) for function in model.functions}
    called = [node.name for node in model.graph.node if (node.domain, node.op_type) in functions and node.name]
    return tuple(f"{name}/" for name in called)
