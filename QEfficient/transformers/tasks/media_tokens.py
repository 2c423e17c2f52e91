"""What stands for media in a model's prompts, read from its config, its code and a processor's output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from QEfficient.contract import NO_TOKEN
from QEfficient.errors import UnsupportedModel
from QEfficient.processing.media import (
    EMBEDS,
    MAIN_INPUTS,
    MODALITIES,
    CrossEncoder,
    cross_arguments,
    encode,
    encoder_inputs,
    encoder_method,
    features_of_forward,
)
from QEfficient.processing.rope import rope_index
from QEfficient.transformers.lowering.apply import lower, run_eagerly
from QEfficient.transformers.lowering.crossing import CrossMedia
from QEfficient.transformers.lowering.infer_cache_spec import accepted
from QEfficient.transformers.lowering.masks import NO_BLOCKS
from QEfficient.transformers.lowering.media import MediaTokens
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.patches import functions_replaced, quiet_shapes
from QEfficient.transformers.quirks import added_features
from QEfficient.transformers.tasks.media_parts import MediaEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_TYPES = frozenset({"input_ids", "attention_mask", "position_ids", "labels"})
_ROPE_TYPES = "mm_token_type_ids"
"""Only for :func:`rope_index`, where a model has one."""
_MOST_TYPES = 4
_TAKEN = frozenset({"image", "video"})
"""What transformers' forwards take the features of, as ``mm_encoder_outputs``."""


def media_tokens(
    model: PreTrainedModel, encoders: Mapping[str, MediaEncoder], sample: Mapping[str, Any]
) -> MediaTokens:
    """What stands for the media that ``encoders`` read in the prompts of ``model``.

    Args:
        model: a Hugging Face model.
        encoders: by modality.
        sample: a processor's output for one prompt with media.

    Raises:
        UnsupportedModel: the config names no placeholder.
    """
    mask = _placeholder_mask(model, sample)
    constants = dict(_constants(model, sample))
    is_added = not mask and all(adds_features(model, *each, constants) for each in encoders.items())
    placeholders = dict.fromkeys(encoders, NO_TOKEN) if mask or is_added else _placeholders(model, encoders)
    num_positions = count_coordinates(model, sample)
    asked = [(name, main_input(model, name)) for name in encoders if name not in _TAKEN]
    return MediaTokens(
        placeholders=tuple(placeholders.items()),
        forms=tuple((name, encoder.feature_form) for name, encoder in encoders.items()),
        token_types=tuple(_token_types(model, sample, num_positions)),
        num_positions=num_positions,
        asked=tuple(each for each in asked if each[1] in inspect.signature(model.forward).parameters),
        mask=mask,
        is_added=is_added,
        constants=tuple(constants.items()),
    )


def crossing_media(model: PreTrainedModel, tokens: MediaTokens, sample: Mapping[str, Any]) -> MediaTokens:
    """``tokens``; of a model with cross-attention to images, with what these are like in ``sample``."""
    inputs = encoder_inputs(model, "image", sample)
    if not isinstance(encoder_method(model, "image"), CrossEncoder):
        return tokens
    lowered = lower(model, "retained")
    with lowered.fake_mode:
        one = {name: lowered.fake_mode.from_tensor(value[:1], static_shapes=True) for name, value in inputs.items()}
        return CrossMedia.of(tokens, model.base_model, encode(lowered.module, "image", one).last_hidden_state.shape)


def main_input(model: PreTrainedModel, modality: str) -> str:
    """The argument of a model's forward that says whether a prompt has media of ``modality``."""
    method = encoder_method(model, modality)
    assert method is not None
    return next(name for name in inspect.signature(method).parameters if name in MAIN_INPUTS)


def _placeholders(model: PreTrainedModel, modalities: Iterable[str]) -> dict[str, int]:
    """:func:`placeholder` of each; none where layers attend to images and no token stands for one."""
    try:
        return {name: placeholder(model, name) for name in modalities}
    except UnsupportedModel:
        if cross_arguments(model.base_model) is None:
            raise
        return {}


def _placeholder_mask(model: PreTrainedModel, sample: Mapping[str, Any]) -> str:
    """The argument that says where the features of :data:`EMBEDS` go; "" for a model that goes by tokens."""
    names = [name for name in sample if name.startswith(EMBEDS)]
    return names[0] if names and features_of_forward(model) is not None else ""


def placeholder(model: PreTrainedModel, modality: str) -> int:
    """The token that stands for a row of features of ``modality``."""
    token = _named_token(model, modality)
    if token is None:
        raise UnsupportedModel(
            f"The config of {type(model).__name__} names no token that stands for {modality}s ({modality}_token_id)."
        )
    return token


def _named_token(model: PreTrainedModel, modality: str) -> int | None:
    assert modality in MODALITIES
    names = (f"{modality}_token_id", f"{modality}_token_index")
    tokens = [getattr(model.config, name, None) for name in names]
    return next((token for token in tokens if isinstance(token, int)), None)


_SOME_TOKENS = 5


def adds_features(model: PreTrainedModel, modality: str, encoder: MediaEncoder, constants: Mapping[str, float]) -> bool:
    """Whether ``model`` adds a row of features to every token: no token stands for one, and it takes as many rows as
    tokens alone."""
    if added_features(model, modality) is not None:
        return True
    if _named_token(model, modality) is not None or cross_arguments(model.base_model) is not None:
        return False
    pixels, form = main_input(model, modality), encoder.feature_form

    def takes(num_rows: int) -> bool:
        """Whether the forward runs over some tokens with so many rows of features."""
        lowered = run_eagerly(model)
        owner: Any = lowered.module.base_model
        try:
            with quiet_shapes(), lowered.fake_mode, torch.no_grad():
                output = form.added(torch.zeros(1, num_rows, form.width))
                setattr(owner, f"get_{modality}_features", lambda **inputs: output)
                ids = torch.zeros(1, _SOME_TOKENS, dtype=torch.int64)
                lowered.module(input_ids=ids, use_cache=False, **{pixels: torch.zeros(1, 1, 1)}, **constants)
        except FAILURES:
            return False
        return True

    return takes(_SOME_TOKENS) and not takes(_SOME_TOKENS + 1)


def _constants(model: PreTrainedModel, sample: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What of a processor's output are numbers that the model's forward takes."""
    for name in inspect.signature(model.forward).parameters.keys() & sample.keys():
        value = sample[name]
        number = value.item() if isinstance(value, torch.Tensor) and not value.ndim else value
        if isinstance(number, int | float):
            yield name, number


def rows_mask(model: PreTrainedModel, modality: str, sample: Mapping[str, Any]) -> str:
    """What of a processor's output says which rows of features stand for something, where the forward selects these and
    not ``get_*_features``; "": nothing does.

    Args:
        model: a Hugging Face model.
        modality: "image" and so on.
        sample: a processor's output for media of ``modality``.
    """
    inputs = encoder_inputs(model, modality, sample)
    count = len(next(value for name, value in inputs.items() if name in MAIN_INPUTS))
    for name in accepted(model.base_model, dict(sample)):
        value = sample[name]
        is_mask = getattr(value, "dtype", None) == torch.bool and value.ndim == 2 and len(value) == count
        if is_mask and name not in inputs:
            return name
    return ""


def _token_types(model: PreTrainedModel, sample: Mapping[str, Any], num_positions: int) -> Iterator[str]:
    shape = sample["input_ids"].shape if "input_ids" in sample else None
    for name, value in sample.items():
        is_per_token = isinstance(value, torch.Tensor) and value.shape == shape and not value.is_floating_point()
        if not is_per_token or name in _NO_TYPES or name not in accepted(model, {name: value}):
            continue
        if not (num_positions and name == _ROPE_TYPES):
            yield name


def count_coordinates(model: PreTrainedModel, sample: Mapping[str, Any]) -> int:
    """Coordinates of a token, where rotary embeddings have several; else 0."""
    coordinates = rope_index(model, sample)
    return 0 if coordinates is None else coordinates.shape[0]


def block_types(model: nn.Module, tokens: MediaTokens) -> tuple[int, ...]:
    """The token types whose neighbours attend to each other in both directions."""
    if not tokens.token_types:
        return ()
    return tuple(value for value in range(_MOST_TYPES) if _makes_blocks(model, tokens.token_types, value))


class _Seen(Exception):
    """Carries the blocks out of a model's forward."""


def _makes_blocks(model: nn.Module, names: tuple[str, ...], value: int) -> bool:
    """Whether tokens of type ``value`` are a block; its masks are made of whole numbers, which are real here."""

    def note(block_sequence_ids: torch.Tensor) -> Callable[..., torch.Tensor]:
        raise _Seen(bool((block_sequence_ids >= 0).any()))

    lowered = run_eagerly(model)
    ids = torch.zeros(1, 2, dtype=torch.int64)
    inputs = {
        "input_ids": ids,
        "position_ids": torch.arange(2)[None],
        **{n: torch.full_like(ids, value) for n in names},
    }
    try:
        with functions_replaced(lowered.module, {**NO_BLOCKS, "blockwise_overlay": note}), torch.no_grad():
            lowered.module(**accepted(lowered.module, inputs), use_cache=False)
    except _Seen as seen:
        return bool(seen.args[0])
    except FAILURES:
        return False
    return False
