"""Examines the graph of a compiled causal LM with the card's numerics, on the simulator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.compile.custom_io import NODES_FILE
from QEfficient.compile.node_precision import KEYS, read_node_precision_info
from QEfficient.errors import OptionError
from QEfficient.options import CausalLMCompileOptions
from QEfficient.progress import long_stage
from QEfficient.store.files import storage_errors
from QEfficient.targets import Target
from QEfficient.verify.numeric_report import NumericReport

if TYPE_CHECKING:
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM
    from QEfficient.simulator.compiler.configuration import NodePrecision
    from QEfficient.transformers.models.modeling_auto import QEFFAutoModelForCausalLM

logger = logging.getLogger(__name__)


def check_output(target: Target, out: Path | None) -> None:
    """Check ``node_precision_out`` before running anything.

    Raises:
        OptionError: the target is not a card, or the file cannot be written.
    """
    if out is None:
        return
    if not target.has_card_numerics:
        raise OptionError(
            f"node_precision_out={str(out)!r}: the target is '{target.name}', and only a card's compiler reads such a "
            "file. Compile for cloud-ai-100 or cloud-ai-100-sim."
        )
    if not out.parent.is_dir() or out.is_dir():
        raise OptionError(f"node_precision_out={str(out)!r}: expected a file in a folder that exists.")


def examine_package(
    model: QEFFAutoModelForCausalLM,
    compiled: CompiledCausalLM,
    prompts: Sequence[Sequence[int]],
    out: Path | None,
) -> NumericReport | None:
    """Examine fp16 and the package's formats on prompts.

    Args:
        model: with its PyTorch model; the graph comes from the store, or is exported again.
        compiled: the package.
        prompts: token ids of each.
        out: file for the nodes that must stay in float32, written if there are any.

    Returns:
        The report; None if the simulator cannot run the graph, and a warning says why.
    """
    from QEfficient.simulator.examination.examine import Subject, examine
    from QEfficient.simulator.rejection import Rejected

    body, record = compiled.body, compiled.record
    options = CausalLMCompileOptions.parse({**body.options, "compiler_options": {}})
    nodes = _compiled_nodes(compiled.path / NODES_FILE)
    sizes = {
        **record.sizes,
        "batch_size": 1,
        "full_batch_size": 1,
        "comp_ctx_lengths": record.ctx_len,
        "num_logits_to_keep": 1,
    }
    subject = Subject(
        model=model.exported_graph(body),
        sizes=sizes,
        chunk_len=record.chunk_len,
        layers=list(body.graph.layers),
        mxfp6=options.mxfp6_matmul,
        mxint8=options.mxint8_kv_cache,
        nodes=nodes,
    )
    try:
        with long_stage("Examining", f"{len(prompts)} prompts in float32 and fp16"):
            examination = examine(subject, prompts)
    except Rejected as error:
        logger.warning("The model's numerics were not examined, because the simulator cannot run its graph: %s", error)
        return None
    report = NumericReport.of(examination, computes_fp16=options.precision != "fp32")
    if report.fp32_nodes and options.use_onnx_subfunctions:
        logger.warning(
            "With use_onnx_subfunctions the nodes to keep in float32 are inside functions, and are named as the "
            "simulator names them: a card's compiler may not find them. Verify and compile without it for a card."
        )
    if out is None or not report.fp32_nodes:
        return report
    _write_nodes(out, nodes, report.fp32_nodes)
    return replace(report, node_precision_file=str(out))


def _compiled_nodes(file: Path) -> NodePrecision:
    from QEfficient.simulator.compiler.configuration import NodePrecision

    if not file.exists():
        return NodePrecision()
    content = read_node_precision_info(file)
    fp32, fp16 = (frozenset(content.get(key, ())) for key in KEYS)
    return NodePrecision(fp32, fp16)


def _write_nodes(path: Path, compiled: NodePrecision, more: Sequence[str]) -> None:
    import yaml

    lists = (sorted(compiled.fp32) + list(more), sorted(compiled.fp16.difference(more)))
    content = {key: names for key, names in zip(KEYS, lists, strict=True) if names}
    with storage_errors(path.parent):
        path.write_text(yaml.safe_dump(content, sort_keys=False, width=1000), encoding="utf-8")
