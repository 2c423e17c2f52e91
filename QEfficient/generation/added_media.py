"""Prompts of models that add a row of audio to every token: the audio says how long an answer may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.media import PromptMedia
from QEfficient.generation.request import Request

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def heard(processor: ProcessorMixin, prompt: Any, clips: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the processor makes of the clip of a prompt.

    Args:
        processor: of transformers.
        prompt: a text; there must be none.
        clips: samples of each.

    Raises:
        OptionError: there is a text, or there is not one clip.
    """
    from QEfficient.processing.processor import process_audio

    if prompt or len(clips) != 1:
        raise OptionError(
            f"The model adds its audio to every token, so that a prompt is one clip without a text; got {prompt!r} "
            f"and {len(clips)} clip(s). Pass prompts='' and one clip for each."
        )
    return process_audio(processor, clips)


def prompts_over_rows(
    batch: Mapping[str, Any], features: np.ndarray, num_clips: int, first_token: int | None
) -> list[tuple[list[int], PromptMedia]]:
    """The tokens and the media of each prompt of a processor's output.

    Args:
        batch: the processor's output; it has ``input_ids [B, S]``, or none where prompts are ``first_token`` alone.
        features: ``[V, D]`` of all clips, as many of each.
        num_clips: clips of the batch, one for each prompt.
        first_token: what every prompt begins with.

    Raises:
        CapacityError: the audio of a prompt is too short for an answer.
        OptionError: prompts and clips differ in number, or prompts are padded.
    """
    ids = _token_ids(batch, num_clips, first_token)
    mask = batch.get("attention_mask")
    if mask is not None and not np.asarray(mask).all():
        raise OptionError("Prompts of a model that adds audio to every token cannot be padded: pass one at a time.")
    if len(ids) != num_clips:
        raise OptionError(f"There are {len(ids)} prompt(s) and {num_clips} clip(s): pass one clip for each prompt.")
    rows = features.reshape(num_clips, -1, features.shape[-1])
    if rows.shape[1] <= ids.shape[1]:
        raise CapacityError(
            f"A clip makes {rows.shape[1]} row(s) of features, one for each token, and a prompt has {ids.shape[1]} "
            "token(s) already: the clip is too short for an answer."
        )
    media = [PromptMedia(np.ones(rows.shape[1], bool), each) for each in rows]
    return [(row.tolist(), each) for row, each in zip(ids, media, strict=True)]


def _token_ids(batch: Mapping[str, Any], num_clips: int, first_token: int | None) -> np.ndarray:
    if batch.get("input_ids") is not None:
        return np.atleast_2d(np.asarray(batch["input_ids"]))
    if first_token is None:
        raise OptionError(
            "The processor's output has no input_ids, and the checkpoint's generation config no bos_token_id to begin "
            "with: pass input_ids."
        )
    return np.full((num_clips, 1), first_token, np.int64)


def within_audio(request: Request, ctx_len: int, *, is_asked: bool) -> Request:
    """``request`` with no more new tokens than its audio has rows of features for; all of them where the caller does
    not say how many (``is_asked``).

    Raises:
        CapacityError: ``ctx_len`` does not hold the default.
    """
    num_rows = len(request.media.is_placeholder)
    room = num_rows - len(request.prompt_ids)
    if is_asked:
        return replace(request, max_new_tokens=min(request.max_new_tokens, room))
    if num_rows > ctx_len:
        raise CapacityError(
            f"The audio makes {num_rows} tokens, and the model was compiled for ctx_len={ctx_len}. Compile with "
            f"ctx_len={num_rows} or more, or set generation_len to {ctx_len - len(request.prompt_ids)} or less for the "
            "beginning of the answer."
        )
    return replace(request, max_new_tokens=room)
