"""The graph of an encoder that reads prompts with images, before a decoder that attends to what it read.

What such an encoder takes is a processor's output: pixels or patches, and in some models text with its boxes, or with
placeholders for the features of images. Which of it varies in size is measured on prompts with images of several
sizes; what the decoder gets is what the model gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from QEfficient.contract import FEATURES, INDEX
from QEfficient.errors import UnsupportedModel
from QEfficient.processing.media import encoder_inputs
from QEfficient.transformers.lowering.apply import lower, run_eagerly
from QEfficient.transformers.lowering.encoder_states import DecoderCall, decoder_call
from QEfficient.transformers.lowering.infer_cache_spec import refusing
from QEfficient.transformers.lowering.media import MediaTokens, StepMedia, placing
from QEfficient.transformers.patches import functions_replaced, traceable_sizes
from QEfficient.transformers.quirks import replaced_functions
from QEfficient.transformers.tasks.encoder_sources import encoder_of
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.media_parts import axes_that_vary
from QEfficient.transformers.tasks.sequence_inputs import forward_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLACES_AXIS, STATES, COUNTS = "encoder_seq_len", "encoder_hidden_states", "encoder_mask"
_SAMPLE_LEN, _SAMPLE_ROWS = 13, 9
_NOT_OF_ENCODERS = frozenset({"labels", "position_ids"})


@dataclass(frozen=True)
class SeeingEncoder:
    """What an encoder takes of a prompt with images, and what it makes of it."""

    inputs: dict[str, torch.Tensor]
    """Samples, by the names of the model's arguments; all are of one prompt."""
    axes: dict[str, dict[int, str]]
    per_place: tuple[str, ...]
    """Those with a value for each token of the text, or for each patch where the processor says which patches count."""
    width: int
    """Of a state that the decoder attends to."""
    num_states: tuple[int, ...]
    """States for each of the prompts that it was measured with."""
    num_others: int
    """States beside one for each token or patch."""
    decoder_output: Any = None
    """Shapes of what the decoder returns, which the graph has no use for."""
    tokens: MediaTokens | None = None
    """What stands for the features of images in the text, where these are computed before."""

    def ingredients(self) -> str:
        """All that decides the graph."""
        shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.inputs.items()}
        return repr((shapes, self.axes, self.per_place, self.width, self.tokens))

    @property
    def source(self) -> SeenSource:
        """As the decoder's graph knows it."""
        return SeenSource(self.width)


@dataclass(frozen=True)
class SeenSource:
    """See :class:`QEfficient.transformers.tasks.encoder_sources.EncoderSource`; the encoder is another graph."""

    width: int
    axis: str = PLACES_AXIS
    rule: None = None

    def inputs(self) -> list[GraphInput]:
        """See the protocol: none of these are the decoder's."""
        return []

    def encoder(self, model: nn.Module) -> nn.Module:
        """See the protocol: :func:`seeing_graph` makes it."""
        raise NotImplementedError

    def minimums(self) -> dict[str, int]:
        """See the protocol."""
        return {}

    def maximums(self) -> dict[str, int]:
        """See the protocol."""
        return {}


def reads_text(model: nn.Module) -> bool:
    """Whether the encoder of ``model`` reads text too."""
    return "input_ids" in forward_parameters(encoder_of(model))


def seeing_encoder(
    model: PreTrainedModel, samples: Sequence[Mapping[str, Any]], tokens: MediaTokens | None = None
) -> SeeingEncoder:
    """How the encoder of ``model`` takes prompts with images.

    Args:
        model: a Hugging Face model; not changed.
        samples: a processor's output for prompts with an image each, of different sizes.
        tokens: what stands for the features of images, where an encoder of images computes them before.

    Raises:
        UnsupportedModel: the model does not run on them without weights.
    """
    names = _names(model, samples[0], tokens is not None)
    if not names:
        raise UnsupportedModel(
            f"The encoder of {type(model).__name__} takes nothing of what its processor makes: {', '.join(samples[0])}."
        )
    calls = [{name: sample[name] for name in names} for sample in samples]
    places = samples[0].get("attention_mask")
    per_place = [] if places is None else [name for name in names if calls[0][name].shape[:2] == places.shape]
    encoder = SeeingEncoder(calls[0], {}, tuple(per_place), 0, (), 0, tokens=tokens)
    ran = [_ran(model, encoder, call) for call in calls]
    measured = [each.states for each in ran]
    counts = tuple(states.shape[1] for states in measured)
    num_others = counts[0] - places.shape[1] if places is not None and per_place else 0
    varying = axes_that_vary([{**call, STATES: states} for call, states in zip(calls, measured, strict=True)])
    axes = {name: each for name, each in varying.items() if name not in per_place}
    if per_place:
        axes |= {name: {1: PLACES_AXIS} for name in per_place} | {
            STATES: {1: "num_states" if num_others else PLACES_AXIS}
        }
    output = tree_map(lambda x: tuple(x.shape) if isinstance(x, torch.Tensor) else x, ran[0].output)
    return replace(
        encoder,
        axes=axes,
        width=measured[0].shape[2],
        num_states=counts,
        num_others=num_others,
        decoder_output=output,
    )


def axis_sizes(model: PreTrainedModel, encoder: SeeingEncoder, sample: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the named axes of the graph of ``encoder`` for a processor's output of one prompt."""
    if not encoder.axes:
        return {}
    call = {name: sample[name] for name in encoder.inputs}
    call[STATES] = _ran(model, encoder, call).states
    return {name: call[key].shape[axis] for key, axes in encoder.axes.items() for axis, name in axes.items()}


def _names(model: PreTrainedModel, sample: Mapping[str, Any], has_features: bool) -> list[str]:
    """What the encoder takes of a processor's output."""
    taken = forward_parameters(model) - _NOT_OF_ENCODERS
    if not reads_text(model):
        taken -= {"input_ids"}
    if has_features:
        taken -= encoder_inputs(model, "image", sample).keys()
    tensors = [name for name, value in sample.items() if isinstance(value, torch.Tensor)]
    return [name for name in tensors if name in taken and not name.startswith("decoder_")]


def _ran(model: nn.Module, encoder: SeeingEncoder, call: Mapping[str, torch.Tensor]) -> DecoderCall:
    """What the decoder gets and returns for a call, without values."""
    lowered = run_eagerly(model)
    inner = _Encoding(lowered.module, encoder)
    samples = [call.get(each.name, each.sample) for each in _inputs(encoder)]
    if encoder.tokens is not None:
        samples = [*samples[:-1], torch.zeros_like(call["input_ids"])]
    with refusing(lowered.module), lowered.fake_mode, torch.no_grad():
        return inner.call(*(lowered.fake_mode.from_tensor(each, static_shapes=True) for each in samples))


class _Encoding(nn.Module):
    """Inputs of :func:`_inputs` in order to the states that the decoder attends to, float32 ``[1, T, D]``, and which of
    them count, int64 ``[1, T]``."""

    def __init__(self, model: nn.Module, encoder: SeeingEncoder):
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes = self.encoder.decoder_output
        called = self.call(*inputs, output=tree_map(torch.zeros, shapes, is_leaf=lambda x: type(x) is tuple))
        return called.states.float(), called.counts

    def call(self, *inputs: torch.Tensor, output: Any = None) -> DecoderCall:
        """How the model calls its decoder; ``output`` as of :func:`decoder_call`."""
        model, tokens = self.model, self.encoder.tokens
        passed = dict(zip([*self.encoder.inputs], inputs, strict=False))
        features: Any = nullcontext()
        if tokens is not None:
            *_, rows, index = inputs
            features = _features_known(model, StepMedia(tokens, passed["input_ids"], rows, index=index))
            # The model asks for features where it gets pixels.
            passed |= dict.fromkeys(_media_arguments(model), rows)
        with traceable_sizes(), functions_replaced(model, replaced_functions(model)), features:
            return decoder_call(model, passed, output)


def _media_arguments(model: nn.Module) -> list[str]:
    """The arguments of the model's forward that make it ask for features of images."""
    return [name for name in ("pixel_values",) if name in forward_parameters(model)]


@contextmanager
def _features_known(model: nn.Module, media: StepMedia) -> Iterator[None]:
    """Let ``model``, a private copy, take the features of ``media`` for those of its images."""

    def known(*args: object, **kwargs: object) -> SimpleNamespace:
        return media.outputs()["image"]

    owners = [module for module in model.modules() if hasattr(module, "get_image_features")]
    for owner in owners:
        setattr(owner, "get_image_features", known)  # noqa: B010
    try:
        with placing(model, media):
            yield
    finally:
        for owner in owners:
            delattr(owner, "get_image_features")


def _inputs(encoder: SeeingEncoder) -> list[GraphInput]:
    """Inputs of the graph, in order."""
    inputs = []
    for name, tensor in encoder.inputs.items():
        size = (1, _SAMPLE_LEN, *tensor.shape[2:]) if name in encoder.per_place else tensor.shape
        is_mask = name == "attention_mask"  # of numbers that are whole, whatever the processor makes of them
        sample = torch.ones(*size, dtype=torch.int64) if is_mask else torch.zeros(*size, dtype=tensor.dtype)
        inputs.append(GraphInput(name, sample, encoder.axes.get(name, {})))
    if encoder.tokens is not None:
        features = torch.zeros(1, _SAMPLE_ROWS, encoder.tokens.width)
        inputs.append(GraphInput(FEATURES, features, {1: "vision_size"}))
        index = torch.zeros(1, _SAMPLE_LEN, dtype=torch.int64)
        inputs.append(GraphInput(INDEX, index, {1: PLACES_AXIS}))
    return inputs


def seeing_graph(model: PreTrainedModel, encoder: SeeingEncoder, longest: int | None = None) -> TaskGraph:
    """The graph of an encoder: a processor's output for one prompt to ``encoder_hidden_states [1, T, D]`` and
    ``encoder_mask [1, T]``.

    Args:
        model: a Hugging Face model; not changed.
        encoder: of it.
        longest: maximum tokens of a text, where the model sets one.
    """
    lowered = lower(model, "retained")
    return TaskGraph(
        module=_Encoding(lowered.module, encoder).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=0,
        inputs=_inputs(encoder),
        output_names=[STATES, COUNTS],
        output_axes=dict.fromkeys((STATES, COUNTS), encoder.axes.get(STATES, {})),
        axis_limits={} if longest is None or not encoder.per_place else {PLACES_AXIS: longest},
        has_related_axes=not encoder.per_place,
    )
