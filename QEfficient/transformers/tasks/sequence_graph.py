"""The graph of a model over whole sequences with an attention mask, for encoders and classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.tasks.graph_spec import Axes, GraphInput, TaskGraph
from QEfficient.transformers.tasks.recurrent_sequences import RecurrentSequenceModel, recurrent_specs
from QEfficient.transformers.tasks.sequence_inputs import TOKEN_TYPE_IDS, SequenceContract, SequenceModel

_SAMPLE_ROWS, _SAMPLE_LEN = 3, 7


def sequence_graph(
    module: SequenceModel,
    contract: SequenceContract,
    outputs: Mapping[str, Axes],
    seq_lens: Sequence[int],
) -> TaskGraph:
    """The graph of ``module`` with axes ``batch_size`` and ``seq_len``.

    Args:
        module: the module that was measured, with real weights.
        contract: see :func:`QEfficient.transformers.tasks.padding_probe.measure_contract`.
        outputs: the named axes of each output.
        seq_lens: minimum and maximum length of a sequence; a single length is fixed in the graph.
    """
    model: Any = module.model
    lowered = lower(model, "retained", seq_lens[-1])
    specs = recurrent_specs(model)
    if specs is None:
        inner = SequenceModel(lowered.module, module.read, contract.padding.is_blank)
    else:
        inner = RecurrentSequenceModel(lowered.module, module.read, specs, seq_lens[-1])
    is_fixed = len(seq_lens) == 1
    axes = {0: "batch_size"} if is_fixed else {0: "batch_size", 1: "seq_len"}
    return TaskGraph(
        module=inner.eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=getattr(model.config.get_text_config(), "num_hidden_layers", 0),
        inputs=_inputs(contract, seq_lens[0] if is_fixed else _SAMPLE_LEN, axes),
        output_names=[*outputs],
        axis_limits={} if is_fixed else {"seq_len": seq_lens[-1]},
        axis_minimums={} if is_fixed else {"seq_len": seq_lens[0]},
        output_axes={
            output: {axis: name for axis, name in named.items() if name in axes.values()}
            for output, named in outputs.items()
        },
    )


def _inputs(contract: SequenceContract, length: int, axes: dict[int, str]) -> list[GraphInput]:
    mask = torch.ones(_SAMPLE_ROWS, length, dtype=torch.int64)
    if contract.padding.side == "right":
        mask[0, length * 2 // 3 + 1 :] = 0
    samples = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    if contract.token_type_ids != "none":
        samples[TOKEN_TYPE_IDS] = torch.zeros_like(mask)
    return [GraphInput(name, sample, axes) for name, sample in samples.items()]
