"""How a model is spread over several devices, as the file that the card's compiler reads.

One partition over several devices slices each tensor; several partitions make a pipeline, each with separate nodes
and devices. Device numbers are logical: a session maps them to cards.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from QEfficient.contract import RETAINED, CompileJob
from QEfficient.errors import CompileError, OptionError

_LAYER_IN_NAME = re.compile(r"(?:^|[./])(?:(?:layers\.|h\.|layer_)(?=\d+(?:[./]|$))|layer\.(?=\d+[./]))(\d+)")
_LAYER_END = re.compile(r"layer\.(\d+)$")
_LAYER_STATE = re.compile(rf"\.(\d+)(?:_\w+)?{RETAINED}$")


def partition_file(folder: Path, job: CompileJob) -> Path | None:
    """The path of a job's partition file: the user's, or one in ``folder``; None for one device."""
    options = job.options
    if options.mdp_load_partition_config:
        return Path(options.mdp_load_partition_config)
    if options.mdp_num_partitions > 1:
        return folder / f"mdp_disagg_{options.num_devices}d_{options.mdp_num_partitions}p.json"
    return folder / f"mdp_ts_{options.num_devices}.json" if options.num_devices > 1 else None


def check_partition_options(job: CompileJob) -> None:
    """Check what can be checked without the graph.

    Raises:
        OptionError: the options contradict each other, or the user's partition file does not fit them.
    """
    options = job.options
    if options.mos is not None and options.mos > options.num_cores:
        raise OptionError(f"mos={options.mos} is more than num_cores={options.num_cores}: give at most that.")
    if options.num_devices % options.mdp_num_partitions:
        raise OptionError(
            f"num_devices={options.num_devices} cannot be shared out evenly over mdp_num_partitions="
            f"{options.mdp_num_partitions} stages: give a multiple."
        )
    if not options.mdp_load_partition_config:
        return
    if options.mdp_num_partitions > 1:
        raise OptionError("mdp_load_partition_config is a partition file already: leave out mdp_num_partitions.")
    where = f"mdp_load_partition_config={options.mdp_load_partition_config!r}"
    try:
        config = json.loads(Path(options.mdp_load_partition_config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{where} cannot be read: {error}") from error
    num_devices = check_partitions(config, options.num_cores, where)
    if options.num_devices not in (1, num_devices):
        raise OptionError(f"{where} has {num_devices} devices, num_devices={options.num_devices}: they must agree.")


def check_partitions(config: Any, num_cores: int, where: str) -> int:
    """Check a partition file's content.

    Args:
        config: the JSON value.
        num_cores: of each device, which the compiler is told separately too.
        where: for messages.

    Returns:
        The number of devices.

    Raises:
        OptionError: it is not of the form, has a device twice, or other cores than ``num_cores``.
    """
    try:
        devices = [device for partition in config["partitions"] for device in partition["devices"]]
        cores = [(device["deviceId"], device["numCores"]) for device in devices]
    except (KeyError, TypeError) as error:
        raise OptionError(
            f'{where}: expected {{"partitions": [{{"name", "devices": [{{"deviceId", "numCores"}}]}}]}}, but '
            f"{type(error).__name__}: {error}."
        ) from error
    ids = [number for number, _ in cores]
    if not ids or len({*ids}) < len(ids):
        raise OptionError(f"{where}: every device may be in one partition only, once; got {ids}.")
    if wrong := next(((number, count) for number, count in cores if count != num_cores), None):
        raise OptionError(
            f"{where}: device {wrong[0]} has numCores={wrong[1]}, num_cores={num_cores}: they must agree."
        )
    return len(ids)


def write_partitions(folder: Path, onnx_path: Path, job: CompileJob) -> Path | None:
    """Write the partition file that the options ask for; returns its path. A file of the user is not changed.

    Raises:
        OptionError: see :func:`check_partition_options`; or there are fewer layers than stages.
        CompileError: the graph cannot be split.
    """
    check_partition_options(job)
    path, options = partition_file(folder, job), job.options
    if path is None or options.mdp_load_partition_config:
        return path
    if options.mdp_num_partitions > 1:
        config = pipeline(onnx_path, options.num_devices, options.mdp_num_partitions, options.num_cores)
    else:
        config = tensor_slices(options.num_devices, options.num_cores)
    path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return path


def tensor_slices(num_devices: int, num_cores: int) -> dict[str, Any]:
    """All devices work on each tensor."""
    partition = {"name": "Partition0", "devices": _devices(range(num_devices), num_cores)}
    return {"connections": _connections(num_devices), "partitions": [partition]}


def pipeline(onnx_path: Path, num_devices: int, num_partitions: int, num_cores: int) -> dict[str, Any]:
    """Each stage runs different layers, on an equal share of the devices."""
    each = num_devices // num_partitions
    partitions = [
        {"name": f"Partition{stage}", "nodeList": nodes, "devices": _devices(ids, num_cores)}
        for stage, nodes in enumerate(split_nodes(onnx_path, num_partitions))
        for ids in [range(stage * each, (stage + 1) * each)]
    ]
    return {"connections": _connections(num_devices), "partitions": partitions}


def _devices(ids: range, num_cores: int) -> list[dict[str, int]]:
    return [{"deviceId": number, "numCores": num_cores} for number in ids]


def _connections(num_devices: int) -> list[dict[str, Any]]:
    return [{"devices": list(range(num_devices)), "type": "p2p"}]


def layers_of_stages(num_layers: int, num_partitions: int) -> list[int]:
    """How many layers each stage gets: what is left over goes to the middle ones, which have neither the embedding
    nor the head, then to the first.

    Raises:
        OptionError: there are fewer layers than stages.
    """
    if num_layers < num_partitions:
        raise OptionError(
            f"mdp_num_partitions={num_partitions}: the model has {num_layers} layers, at least one per stage."
        )
    sizes = [num_layers // num_partitions] * num_partitions
    middle = (num_partitions - 1) // 2 + 0.25  # the quarter breaks ties
    order = [*sorted(range(1, num_partitions - 1), key=lambda stage: abs(stage - middle)), 0]
    for stage in order[: num_layers % num_partitions]:
        sizes[stage] += 1
    return sizes


def split_nodes(onnx_path: Path, num_partitions: int) -> list[list[str]]:
    """The names of each stage's nodes, in the graph's order.

    A stage computes everything that its layers need and no earlier stage has computed. So no node waits for a later
    stage, which the card would run after it. The compiler ignores names that it has folded away.

    Raises:
        CompileError: the graph does not say where its layers are, or has a node without a name or a name twice.
    """
    import onnx

    model = onnx.load(onnx_path, load_external_data=False)
    nodes = list(model.graph.node)
    names = [node.name for node in nodes]
    if "" in names or len({*names}) < len(names):
        wrong = next(name for name in names if not name or names.count(name) > 1)
        raise CompileError(f"{onnx_path.name}: a pipeline needs nodes with unique names; '{wrong}' is not one.")
    layer_of = _layers(nodes)
    last = max(layer_of, default=-1)
    if last not in layer_of or len(layer_of) != last + 1:
        raise CompileError(
            f"{onnx_path.name}: the names of values, state and weights tell the layers "
            f"{sorted(layer_of) or 'none'}; a pipeline needs all from 0 on."
        )
    ends = list(accumulate(layers_of_stages(last + 1, num_partitions)))
    stages = _stages(nodes, layer_of, ends)
    functions = {(function.domain, function.name): function for function in model.functions}
    lists: list[list[str]] = [[] for _ in range(num_partitions)]
    for node, stage in zip(nodes, stages, strict=True):
        lists[stage].extend(_with_inner_names(node, node.name, functions))
    return lists


def _layers(nodes: list[Any]) -> dict[int, list[int]]:
    """The nodes (by index) that certainly belong to each layer: they end it or write its state. If the exporter has not
    marked the ends, also nodes that are named after a layer or use a weight of it."""
    num_uses = Counter(name for node in nodes for name in node.input)
    is_marked = any(_LAYER_END.match(name) for node in nodes for name in node.output)
    places: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        marks = [_LAYER_END.match(name) or _LAYER_STATE.search(name) for name in node.output]
        if not is_marked:
            # Equal weights of two layers are stored once, under the name of one.
            unshared = [name for name in node.input if num_uses[name] == 1]
            marks += [_LAYER_IN_NAME.search(name) for name in (node.name, *unshared)]
        if layer := next((mark for mark in marks if mark), None):
            places.setdefault(int(layer[1]), []).append(place)
    return places


def _stages(nodes: list[Any], layer_of: dict[int, list[int]], ends: list[int]) -> list[int]:
    """The stage of each node: the first that needs it; the last stage if no layer needs it."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    stages = [len(ends) - 1] * len(nodes)
    seen = [False] * len(nodes)
    for layer in sorted(layer_of):
        pending = list(layer_of[layer])
        while pending:
            place = pending.pop()
            if seen[place]:
                continue
            seen[place], stages[place] = True, bisect_right(ends, layer)
            pending.extend(makers[name] for name in nodes[place].input if name in makers)
    return stages


def _with_inner_names(node: Any, name: str, functions: dict[tuple[str, str], Any]) -> Iterator[str]:
    """A node's name, and those that its inner nodes get where the compiler inlines a function."""
    yield name
    function = functions.get((node.domain, node.op_type))
    for inner in function.node if function is not None else ():
        yield from _with_inner_names(inner, f"{name}/{inner.name}", functions) if inner.name else ()
