"""Compares a package whose encoder sees with its Hugging Face model: states of the encoder, then greedy tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from QEfficient.transformers.lowering.encoder_states import decoder_call
from QEfficient.transformers.tasks.sequence_inputs import forward_parameters
from QEfficient.verify.media_parity import compare_answers
from QEfficient.verify.parity import ParityReport, PromptParity, relative_error
from QEfficient.verify.reference import in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.generation.tasks.vision2seq import CompiledVision2Seq


def compare_seen(
    model: PreTrainedModel,
    compiled: CompiledVision2Seq,
    batches: Sequence[Mapping[str, Any]],
    generation_len: int,
) -> ParityReport:
    """Encode and decode greedily with both and compare.

    Args:
        model: the Hugging Face model; a float32 copy of it is the reference.
        compiled: the package.
        batches: a processor's output for one prompt each.
        generation_len: maximum number of tokens to compare for each prompt.
    """
    reference = in_float32(model)
    return ParityReport([_compare_one(reference, compiled, batch, generation_len) for batch in batches])


def _compare_one(
    reference: PreTrainedModel, compiled: CompiledVision2Seq, batch: Mapping[str, Any], generation_len: int
) -> PromptParity:
    (prompt,) = compiled.encode(dict(batch))
    taken = forward_parameters(reference)
    arguments = {name: value for name, value in batch.items() if name in taken and not name.startswith("decoder_")}
    with torch.no_grad():
        called = decoder_call(reference, arguments)
    theirs = called.states[0][called.counts[0] > 0].float().numpy()
    length = min(generation_len, compiled.engine.session.info.ctx_len - 1 - len(prompt.begin))
    errors = {"prompt": relative_error(prompt.states, theirs)}
    return compare_answers(reference, compiled, batch, len(prompt.states), (length, length), errors)
