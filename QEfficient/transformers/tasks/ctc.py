"""The graph of a CTC model: logits ``[B, frames, vocab]`` of signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.sequence_inputs import stateless_copy
from QEfficient.transformers.tasks.signals import (
    ATTENTION_MASK,
    SignalContract,
    SignalModel,
    measure_signals,
    signal,
)

_SAMPLE_ROWS, _SAMPLE_FRAMES = 3, 211
"""Frames: more than a block of attention has, where a model attends in blocks."""
_SAMPLES = {0: "batch_size", 1: "seq_len"}


def prepare_ctc(model: nn.Module, longest: int) -> tuple[nn.Module, SignalContract]:
    """``model`` ready to be lowered, over the same parameters, and how it takes signals of up to ``longest`` samples or
    features.

    Raises:
        UnsupportedModel: see :func:`measure_signals`.
    """
    copied = stateless_copy(model)
    return copied, measure_signals(copied, logits, longest)


def logits(model: nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    """``[B, frames, vocab]``, float32."""
    return model(**arguments).logits.float()


def ctc_graph(model: nn.Module, contract: SignalContract, seq_lens: Sequence[int]) -> TaskGraph:
    """The graph of ``model`` with axes ``batch_size`` and ``seq_len``, in samples or features.

    Args:
        model: the one that was measured, with real weights.
        contract: see :func:`prepare_ctc`.
        seq_lens: minimum and maximum length of a signal; a single length is fixed in the graph.
    """
    lowered = lower(model, "retained", seq_lens[-1])
    is_fixed = len(seq_lens) == 1
    length = seq_lens[0] if is_fixed else max(contract.rule.length(_SAMPLE_FRAMES) + 1, seq_lens[0])
    axes = {0: "batch_size"} if is_fixed else _SAMPLES
    samples = {contract.input: signal(length, contract.width).expand(_SAMPLE_ROWS, length, *_rest(contract)).clone()}
    if contract.padding.side is not None:
        mask = torch.ones(_SAMPLE_ROWS, length, dtype=torch.int64)
        mask[0, length * 2 // 3 + 1 :] = 0
        samples[ATTENTION_MASK] = mask
    return TaskGraph(
        module=SignalModel(lowered.module, logits, contract).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=getattr(getattr(model.config, "encoder_config", model.config), "num_hidden_layers", 0),
        inputs=[GraphInput(name, sample, axes) for name, sample in samples.items()],
        output_names=["logits"],
        axis_limits={} if is_fixed else {"seq_len": seq_lens[-1]},
        axis_minimums={} if is_fixed else {"seq_len": seq_lens[0]},
        output_axes={"logits": {0: "batch_size"} | ({} if is_fixed else {1: "num_frames"})},
    )


def _rest(contract: SignalContract) -> list[int]:
    return [] if contract.width is None else [contract.width]
