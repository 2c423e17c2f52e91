"""Compares a package whose encoder sees with its Hugging Face model: states of the encoder, then greedy tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from QEfficient.errors import NumericError
from QEfficient.transformers.lowering.encoder_states import decoder_call
from QEfficient.transformers.tasks.sequence_inputs import forward_parameters
from QEfficient.verify.parity import ParityReport, PromptParity, common_prefix, reference_tokens, relative_error
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
    room = compiled.engine.session.info.ctx_len - 1 - len(prompt.begin)
    try:
        generated = compiled.generate(
            dict(batch), generation_len=min(generation_len, room), do_sample=False
        ).generated_ids[0]
    except NumericError as error:
        generated = np.array(error.token_ids, np.int64)
    expected, margins = reference_tokens(reference, batch, min(generation_len, room))
    agreed = common_prefix(generated.tolist(), expected)
    return PromptParity(
        prompt_len=len(prompt.states),
        num_compared=len(expected),
        num_agreed=agreed,
        smallest_margin=min(margins[:agreed], default=None),
        margin_at_divergence=margins[agreed] if agreed < len(margins) else None,
        feature_errors={"prompt": relative_error(prompt.states, theirs)},
    )
