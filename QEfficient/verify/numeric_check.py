"""Examines a causal LM's compiled package with the card's numerics, on the graph that it was compiled from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.compile.custom_io import PRECISION_KEYS, read_node_precision_info
from QEfficient.errors import OptionError
from QEfficient.progress import stage
from QEfficient.store.files import storage_errors
from QEfficient.targets import Target

if TYPE_CHECKING:
    from QEfficient.simulator.compiler.configuration import NodePrecision
    from QEfficient.simulator.examination.report import NumericReport
    from QEfficient.transformers.models.modeling_auto import QEFFAutoModelForCausalLM

logger = logging.getLogger(__name__)


def check_output(target: Target, out: Path | None) -> None:
    """Find what is wrong with ``node_precision_out`` before anything runs.

    Raises:
        OptionError: the target is no card, or the file cannot be made.
    """
    if out is None:
        return
    if not has_card_numerics(target):
        raise OptionError(
            f"node_precision_out={str(out)!r}: the target is '{target.name}', and only a card's compiler reads such a "
            "file. Compile for cloud-ai-100 or cloud-ai-100-sim."
        )
    if not out.parent.is_dir() or out.is_dir():
        raise OptionError(f"node_precision_out={str(out)!r}: expected a file in a folder that exists.")


def has_card_numerics(target: Target) -> bool:
    """Whether a target computes as the simulator does."""
    return target.has_static_shapes


def examine_package(
    model: QEFFAutoModelForCausalLM, body: Mapping[str, Any], prompts: Sequence[Sequence[int]], out: Path | None
) -> NumericReport | None:
    """What fp16 and the package's formats do to the model on prompts.

    Args:
        model: with its PyTorch model: the graph is taken from the store, or exported again where it is gone.
        body: the package's manifest's.
        prompts: token ids of each.
        out: where to write the nodes that must stay in float32, if any must.

    Returns:
        The report, or None where the simulator cannot run the graph; why is logged.
    """
    from QEfficient.simulator.examination.examine import Subject, examine
    from QEfficient.simulator.rejection import Rejected

    options, plan, onnx_path = _graph(model, body)
    nodes = _given_nodes(options.node_precision_info)
    sizes = {
        **model._state_sizes(plan, options),
        "batch_size": 1,
        "full_batch_size": 1,
        "comp_ctx_lengths": options.ctx_len,
        "num_logits_to_keep": 1,
    }
    subject = Subject(
        model=onnx_path,
        sizes=sizes,
        chunk_len=body["session"]["chunk_len"],
        layers=body["layers"],
        computes_fp16=options.precision != "fp32",
        mxfp6=options.mxfp6_matmul,
        mxint8=options.mxint8_kv_cache,
        nodes=nodes,
    )
    try:
        with stage("Examining", f"{len(prompts)} prompts in float32 and fp16"):
            report = examine(subject, prompts)
    except Rejected as error:
        logger.warning("The numbers inside the model were not examined, the simulator cannot run its graph: %s", error)
        return None
    if report.fp32_nodes and options.use_onnx_subfunctions:
        logger.warning(
            "With use_onnx_subfunctions the nodes to keep in float32 are inside functions, and are named as the "
            "simulator names them: a card's compiler may not find them. Verify and compile without it for a card."
        )
    if out is None or not report.fp32_nodes:
        return report
    _write_nodes(out, nodes, report.fp32_nodes)
    return replace(report, node_precision_file=str(out))


def _graph(model: QEFFAutoModelForCausalLM, body: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Path]:
    """The options of the package, and the graph that it was compiled from."""
    kept = body["options"]
    defaults = model.options_class()
    changed = {f.name: kept[f.name] for f in fields(defaults) if kept[f.name] != getattr(defaults, f.name)}
    options, target = model._parse({**changed, "target": body["target"]})
    plan = model._plan(options, target)
    return options, plan, model._export(plan).file("model.onnx")


def _given_nodes(file: str | None) -> NodePrecision:
    from QEfficient.simulator.compiler.configuration import NodePrecision

    if file is None:
        return NodePrecision()
    content = read_node_precision_info(Path(file))
    fp32, fp16 = (frozenset(content.get(key, ())) for key in PRECISION_KEYS)
    return NodePrecision(fp32, fp16)


def _write_nodes(path: Path, given: NodePrecision, more: Sequence[str]) -> None:
    import yaml

    lists = (sorted(given.fp32) + list(more), sorted(given.fp16.difference(more)))
    content = {key: names for key, names in zip(PRECISION_KEYS, lists, strict=True) if names}
    with storage_errors(path.parent):
        path.write_text(yaml.safe_dump(content, sort_keys=False, width=1000), encoding="utf-8")
