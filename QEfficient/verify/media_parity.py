"""Compares a package that sees with its Hugging Face model: the features of images first, then greedy tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import NumericError
from QEfficient.processing.media import encode, encoder_inputs, feature_rows
from QEfficient.verify.parity import ParityReport, PromptParity, common_prefix, reference_tokens, relative_error
from QEfficient.verify.reference import in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.generation.tasks.image_text_to_text import CompiledImageTextToText


def compare_media(
    model: PreTrainedModel,
    compiled: CompiledImageTextToText,
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
    reference: PreTrainedModel, compiled: CompiledImageTextToText, batch: Mapping[str, Any], generation_len: int
) -> PromptParity:
    # Where the processor makes no tokens, a prompt is the first token of a model that adds audio to every token.
    prompt_len = batch["input_ids"].shape[1] if "input_ids" in batch else 1
    room = compiled.engine.session.info.ctx_len - prompt_len
    errors = _feature_errors(reference, compiled, batch) or None
    return compare_answers(reference, compiled, batch, prompt_len, (generation_len, min(generation_len, room)), errors)


def compare_answers(
    reference: PreTrainedModel,
    compiled: CompiledImageTextToText,
    batch: Mapping[str, Any],
    prompt_len: int,
    lens: tuple[int, int],
    feature_errors: dict[str, float] | None,
) -> PromptParity:
    """Answer one prompt greedily with both and compare.

    Args:
        reference: the Hugging Face model in float32.
        compiled: the package.
        batch: a processor's output for the prompt.
        prompt_len: tokens, or states of the encoder.
        lens: maximum number of tokens that the package and the reference generate.
        feature_errors: relative errors of what was encoded, by name.
    """
    try:
        generated = compiled.generate(dict(batch), generation_len=lens[0], do_sample=False).generated_ids[0]
    except NumericError as error:
        generated = np.array(error.token_ids, np.int64)
    expected, margins = reference_tokens(reference, batch, lens[1])
    agreed = common_prefix(generated.tolist(), expected)
    return PromptParity(
        prompt_len=prompt_len,
        num_compared=len(expected),
        num_agreed=agreed,
        smallest_margin=min(margins[:agreed], default=None),
        margin_at_divergence=margins[agreed] if agreed < len(margins) else None,
        feature_errors=feature_errors,
    )


def _feature_errors(
    reference: PreTrainedModel, compiled: CompiledImageTextToText, batch: Mapping[str, Any]
) -> dict[str, float]:
    """Relative error of the features of each modality that a prompt has."""
    errors = {}
    for encoder in compiled.encoders:
        modality = encoder.record.modality
        inputs = encoder_inputs(reference, modality, batch)
        if not inputs:
            continue
        rows, layers = feature_rows(encode(reference, modality, inputs))
        ours, ours_by_layer = encoder.encode(batch) or (None, None)
        # A codec gives a row for the rest of audio after its last whole frame, which transformers' streams leave out.
        pairs = [] if rows is None or ours is None else [(ours, rows.numpy()[: len(ours)])]
        if layers and ours_by_layer is not None:
            pairs += [(mine, theirs.numpy()) for mine, theirs in zip(ours_by_layer, layers, strict=True)]
        errors[modality] = max(relative_error(mine, theirs) for mine, theirs in pairs)
    return errors
