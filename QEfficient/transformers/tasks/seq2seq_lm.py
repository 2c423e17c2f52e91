"""The graphs of a sequence-to-sequence model, over the state of the decoder.

The encoder turns input sequences into hidden states; the decoder stores the keys and values of its cross-attention in
the step that brings them, and runs over the step's tokens. On targets with dynamic shapes they are two separate graphs.
A card has one program for both, as in upstream's Whisper: in decode steps its encoder runs over one token, whose
output is dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from QEfficient.contract import FrameRule, Specialization
from QEfficient.transformers.lowering.apply import LoweredModel, lower
from QEfficient.transformers.lowering.cache_layers import RetainedEncoderDecoderCache, retained_cache
from QEfficient.transformers.lowering.cache_spec import CTX_LEN, ENCODER_CTX_LEN, StateSpec
from QEfficient.transformers.lowering.encoder_states import EncoderStates, decoder_attends, decoder_of
from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs
from QEfficient.transformers.lowering.positions import biases_from_step
from QEfficient.transformers.lowering.step import RetainedStep, running
from QEfficient.transformers.patches import functions_replaced, traceable_sizes
from QEfficient.transformers.quirks import replaced_functions
from QEfficient.transformers.tasks.encoder_sources import LENS, EncoderSource, TextSource, encoder_of
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.lm_head import at_places, select_before_head
from QEfficient.transformers.tasks.padding_probe import SequenceUse, measure_contract
from QEfficient.transformers.tasks.position_limits import position_limits
from QEfficient.transformers.tasks.sequence_inputs import (
    Padding,
    SequenceModel,
    hidden_states,
    stateless_copy,
)
from QEfficient.transformers.tasks.step_inputs import StepInputs, batch_index_input, state_inputs, token_inputs

_ROWS = {0: "batch_size"}
_ENCODER_SAMPLE_LEN = 13
_TEXT = TextSource()


class RetainedDecoder(nn.Module):
    """One step: logits of each row's newest token, and the new state.

    Args:
        model: a lowered model.
        self_specs: self-attention state of each layer.
        cross_specs: cross-attention state of each layer.
        source: what the encoder reads.
    """

    def __init__(
        self,
        model: nn.Module,
        self_specs: list[StateSpec],
        cross_specs: list[StateSpec],
        source: EncoderSource,
    ):
        super().__init__()
        self.model = model
        self.self_specs, self.cross_specs = self_specs, cross_specs
        self.source = source

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *rest: Any,
        batch_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            input_ids: ``[B, S]``, tokens of the decoder.
            position_ids: ``[B, S]``, padding −1 on the right. A row with position 0 stores its encoder's states.
            encoder_hidden_states: ``[B, T, D]``; only those of rows with position 0 are read.
            rest: ``encoder_lens [B, 1]``, length of each row's input sequence, in every step, where there is padding;
                and the state: the tensors of all layers in order, in each layer self-attention before cross-attention.
            batch_index: ``[B, 1]``, the state row of each batch row (continuous batching).

        Returns:
            Logits ``[B, 1, vocab]`` and the new state.
        """
        model: Any = self.model
        *lens, state = rest
        source = self.source
        num_states = [_num_states(each, source.rule) for each in lens]
        # Only as a named parameter: in **kwargs some models pass it on to a forward that rejects it.
        takes_positions = "decoder_position_ids" in inspect.signature(model.forward).parameters
        has_head = isinstance(model.get_output_embeddings(), nn.Linear)
        with traceable_sizes(), functions_replaced(model, replaced_functions(model)):
            step = RetainedStep(position_ids, batch_index)
            cache = self._cache(state, step, encoder_hidden_states.shape[1], num_states)
            slots = torch.arange(cache.cross_attention_cache.layers[0].keys.shape[2])[None]
            masks = [(slots < each).to(torch.int64) for each in num_states]
            newest = at_places(step.last_token)
            # Models work the decoder's mask out of that of a signal or an image, each in another way.
            reads_text = source.rule is None and source.width is None
            attends = decoder_attends(
                model,
                None if source.width is None else encoder_hidden_states,
                None if reads_text or not masks else masks[0],
            )
            with select_before_head(model, newest) if has_head else nullcontext(), running(step), attends:
                output = model(
                    encoder_outputs=EncoderStates(last_hidden_state=_encoder_output(model, encoder_hidden_states)),
                    **(dict(zip(["attention_mask"], masks, strict=False)) if reads_text else {}),
                    decoder_input_ids=input_ids,
                    past_key_values=cache,
                    use_cache=True,
                    **({"decoder_position_ids": step.position_ids.clamp(min=0)} if takes_positions else {}),
                )
            return output.logits if has_head else newest(output.logits), cache.state()

    def _cache(
        self, state: Sequence[torch.Tensor], step: RetainedStep, num_encoder_states: int, lens: Sequence[torch.Tensor]
    ) -> RetainedEncoderDecoderCache:
        """The cache of ``step``, whose cross-attention stores the encoder's states in rows with position 0."""
        places = torch.arange(num_encoder_states)[None]
        is_stored = step.first_position == 0
        for each in lens:
            is_stored = is_stored & (places < each)
        encoder_step = RetainedStep(torch.where(is_stored, places, -1), step.batch_index)
        self_state: list[torch.Tensor] = []
        cross_state: list[torch.Tensor] = []
        tensors = iter(state)
        for self_spec, cross_spec in zip(self.self_specs, self.cross_specs, strict=True):
            self_state += [next(tensors) for _ in self_spec.tensors]
            cross_state += [next(tensors) for _ in cross_spec.tensors]
        self_cache = retained_cache(self.self_specs, self_state, step)
        cross_cache = retained_cache(self.cross_specs, cross_state, encoder_step)
        return RetainedEncoderDecoderCache(self_cache, cross_cache)


def _encoder_width(model: nn.Module) -> int:
    """Size of a state of the encoder."""
    width: int = encoder_of(model).config.get_text_config().hidden_size
    return width


def _encoder_output(model: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """``states [B, T, D]``, or what stands for them where the encoder's are of another size."""
    width = _encoder_width(model)
    return states if states.shape[2] == width else states.new_zeros(*states.shape[:2], width)


def _num_states(lens: torch.Tensor, rule: FrameRule | None) -> torch.Tensor:
    """States ``[B, 1]`` that the encoder makes of inputs of ``lens [B, 1]``."""
    return lens if rule is None else torch.div(lens + rule.offset, rule.stride, rounding_mode="floor")


class RetainedSeq2SeqLM(nn.Module):
    """Encoder and decoder as one: what the encoder reads takes the place of the decoder's hidden states."""

    def __init__(self, encoder: nn.Module, decoder: RetainedDecoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, *step: Any, **batch_index: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Arguments in the order and with the names of :class:`RetainedDecoder`; result as of it."""
        input_ids, position_ids, source, *rest = step
        hidden = self.encoder(source, *rest[:-1])
        result: tuple[torch.Tensor, list[torch.Tensor]] = self.decoder(
            input_ids, position_ids, hidden, *rest, **batch_index
        )
        return result


def _named(state: GraphInput, part: str) -> GraphInput:
    """Upstream's name: ``past_key_self.i`` for ``past_key.i``."""
    name, _, layer = state.name.rpartition(".")
    return replace(state, name=f"{name}_{part}.{layer}")


def _state_inputs(
    self_specs: list[StateSpec], cross_specs: list[StateSpec], continuous_batching: bool
) -> list[GraphInput]:
    # One call, so that no two axes have the same sample.
    tensors = iter(state_inputs([*self_specs, *cross_specs], continuous_batching))
    self_inputs = [[_named(next(tensors), "self") for _ in spec.tensors] for spec in self_specs]
    inputs = []
    for index, (layer_inputs, cross_spec) in enumerate(zip(self_inputs, cross_specs, strict=True)):
        inputs += layer_inputs
        for tensor in cross_spec.tensors:
            inputs.append(_named(replace(next(tensors), name=f"{tensor.name}.{index}"), "cross"))
    return inputs


def measure_encoder(model: nn.Module, max_len: int) -> Padding:
    """Padding that leaves the encoder's states unchanged, for sequences of up to ``max_len`` tokens.

    Raises:
        UnsupportedModel: the encoder's states are not finite or not deterministic.
    """
    encoder = SequenceModel(encoder_of(stateless_copy(model)), hidden_states)
    padding = measure_contract([encoder], SequenceUse(max_len)).padding
    if padding.side == "left":
        return Padding(None, reason="its encoder counts positions from the end of a sequence")
    return padding


def max_lens(model: nn.Module) -> dict[str, int]:
    """Maximum lengths of encoder and decoder by their positions, keyed by axis name; of a model that reads signals that
    of the decoder alone."""
    reads_text = getattr(encoder_of(model), "main_input_name", "input_ids") == "input_ids"
    limits = position_limits(model, *((_run_both, _sides) if reads_text else (_run_decoder, _decoder)))
    return {axis: limits[side] for axis, side in _SIDES.items() if side in limits}


_SIDES = {ENCODER_CTX_LEN: "encoder", CTX_LEN: "decoder"}


def _sides(model: Any) -> dict[str, nn.Module]:
    return {"encoder": model.get_encoder(), "decoder": decoder_of(model)}


def _decoder(model: Any) -> dict[str, nn.Module]:
    return {"decoder": decoder_of(model)}


def _run_decoder(model: Any, ids: torch.Tensor) -> object:
    states = EncoderStates(last_hidden_state=torch.zeros(1, 2, _encoder_width(model)))
    return model(encoder_outputs=states, decoder_input_ids=ids, use_cache=False)


def _run_both(model: nn.Module, ids: torch.Tensor) -> object:
    return model(input_ids=ids, decoder_input_ids=ids, use_cache=False)


def seq2seq_graph(
    model: nn.Module, ctx_len: int | None, source: EncoderSource = _TEXT, continuous_batching: bool = False
) -> TaskGraph:
    """The one graph of encoder and decoder.

    Axes: ``batch_size``, ``seq_len`` (decoder tokens of a step), the source's, ``ctx_len``, ``encoder_ctx_len``,
    ``sliding_window``, and ``full_batch_size`` for the state's rows under continuous batching.
    """
    lowered = _lowered(model, ctx_len)
    decoder = RetainedDecoder(lowered.module, *encoder_decoder_specs(model, source.width), source)
    inner = RetainedSeq2SeqLM(source.encoder(lowered.module), decoder)
    graph = _decoder_graph(model, lowered, inner, source.inputs(), continuous_batching, source.axis, source.width)
    return replace(graph, axis_minimums=source.minimums(), axis_limits=graph.axis_limits | source.maximums())


def encoder_graph(model: nn.Module, source: EncoderSource = _TEXT) -> TaskGraph:
    """The encoder's graph; axes ``batch_size`` and the source's."""
    lowered = _lowered(model, None)
    limit = max_lens(model).get(ENCODER_CTX_LEN) if source.rule is None else None
    inputs = source.inputs()
    axes = {**_ROWS, 1: source.axis if source.rule is None else "num_frames"}
    is_fixed = not any(source.axis in graph_input.axes.values() for graph_input in inputs)
    return TaskGraph(
        module=source.encoder(lowered.module).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=0,
        inputs=inputs,
        output_names=["encoder_hidden_states"],
        output_axes={"encoder_hidden_states": _ROWS if is_fixed else axes},
        axis_minimums=source.minimums(),
        axis_limits=source.maximums() | ({} if limit is None else {source.axis: limit}),
    )


def decoder_graph(
    model: nn.Module, ctx_len: int | None, source: EncoderSource = _TEXT, continuous_batching: bool = False
) -> TaskGraph:
    """The decoder's graph, which takes ``encoder_hidden_states``. Arguments and axes as of :func:`seq2seq_graph`."""
    lowered = _lowered(model, ctx_len)
    sample = torch.zeros(3, _ENCODER_SAMPLE_LEN, source.width or _encoder_width(model))
    hidden = GraphInput("encoder_hidden_states", sample, {**_ROWS, 1: "encoder_seq_len"})
    inner = RetainedDecoder(lowered.module, *encoder_decoder_specs(model, source.width), source)
    inputs = [hidden, *_lens_input(source)]
    return _decoder_graph(model, lowered, inner, inputs, continuous_batching, "encoder_seq_len", source.width)


def _lens_input(source: EncoderSource) -> list[GraphInput]:
    """``encoder_lens [B, 1]``, of states where the encoder is another graph; none where there is no padding."""
    if source.width is None:
        return [each for each in source.inputs() if each.name == LENS]
    return [GraphInput(LENS, torch.tensor([[11], [_ENCODER_SAMPLE_LEN], [5]]), _ROWS)]


def _lowered(model: nn.Module, ctx_len: int | None) -> LoweredModel:
    lowered = lower(model, "retained", ctx_len)
    biases_from_step(lowered.module)
    return lowered


def _decoder_graph(
    model: nn.Module,
    lowered: LoweredModel,
    inner: nn.Module,
    sources: list[GraphInput],
    continuous_batching: bool,
    axis: str,
    width: int | None,
) -> TaskGraph:
    """A graph with the decoder's inputs and outputs.

    Args:
        sources: its inputs from the encoder's side.
        axis: of their length.
        width: of the states that the decoder attends to; None: those of the encoder.
    """
    self_specs, cross_specs = encoder_decoder_specs(model, width)
    inputs = StepInputs(
        [*token_inputs(), *sources],
        _state_inputs(self_specs, cross_specs, continuous_batching),
        [batch_index_input()] if continuous_batching else [],
    )
    limits = max_lens(model)
    steps = {ENCODER_CTX_LEN: axis, CTX_LEN: "seq_len"}
    return TaskGraph(
        module=inputs.flatten(inner),
        lowered=lowered,
        lowering="retained",
        num_layers=len(self_specs),
        inputs=inputs.in_order,
        output_names=["logits", *inputs.new_state_axes],
        output_axes={"logits": _ROWS, **inputs.new_state_axes},
        axis_limits=limits | {steps[name]: limit for name, limit in limits.items()},
    )


def specializations(
    num_slots: int,
    state_sizes: dict[str, int],
    *,
    continuous_batching: bool,
    axis: str = TextSource.axis,
    source_lens: tuple[int, int] | None = None,
) -> tuple[Specialization, ...]:
    """Upstream's two shapes: one runs the encoder and the first decoder token, one decodes.

    Args:
        num_slots: answers that run at once.
        state_sizes: of the state's named axes.
        continuous_batching: whether the encoder reads one input at a time.
        axis: of the length of what the encoder reads.
        source_lens: that length in each shape; None: the state's, and one token.
    """
    encoder = {"batch_size": 1 if continuous_batching else num_slots, "seq_len": 1}
    decode = {"batch_size": num_slots, "seq_len": 1}
    longest, idle = source_lens or (state_sizes["encoder_ctx_len"], 1)
    return (
        Specialization(name="Encoder", symbols={**encoder, axis: longest, **state_sizes}),
        Specialization(name="Decode", symbols={**decode, axis: idle, **state_sizes}),
    )
