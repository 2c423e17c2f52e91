"""The graph of a text-to-text model: encoder and decoder in one, over the state of the decoder.

A step runs the encoder over the texts of the rows whose answer begins, keeps the keys and values that the decoder's
cross-attention makes of them, and runs the decoder over the step's tokens. In later steps the encoder has a length of
one, and what it gives is not kept: one program serves both, which is upstream's way for Whisper.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from QEfficient.contract import RETAINED, Specialization
from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.cache_layers import RetainedEncoderDecoderCache, retained_cache
from QEfficient.transformers.lowering.cache_spec import CTX_LEN, ENCODER_CTX_LEN, StateSpec
from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs
from QEfficient.transformers.lowering.positions import biases_from_step
from QEfficient.transformers.lowering.step import RetainedStep, running
from QEfficient.transformers.patches import functions_replaced, traceable_sizes
from QEfficient.transformers.quirks.seq2seq import FUNCTIONS
from QEfficient.transformers.tasks.causal_lm import state_inputs
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.lm_head import at_places, select_before_head
from QEfficient.transformers.tasks.sequence_inputs import (
    Padding,
    TextModel,
    TextUse,
    hidden_states,
    measure_texts,
    own_copy,
)

_ROWS = {0: "batch_size"}
_TEXT_SAMPLE_LEN = 13


def encoder_of(model: Any) -> Any:
    """The encoder of ``model``, a copy that is not the user's."""
    encoder = model.get_encoder()
    if not hasattr(encoder, "config"):
        encoder.config = model.config
    return encoder


def _whole_output(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> Any:
    return model(**arguments)


class RetainedSeq2SeqLM(nn.Module):
    """``(input_ids, position_ids, encoder_input_ids, encoder_lens, state, ...)`` to the logits of each row's newest
    token and the new state."""

    def __init__(self, model: nn.Module, own: list[StateSpec], cross: list[StateSpec], is_blank: bool):
        super().__init__()
        self.model = model
        self.own, self.cross = own, cross
        self.is_blank = is_blank

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        encoder_input_ids: torch.Tensor,
        encoder_lens: torch.Tensor,
        state: Sequence[torch.Tensor],
        batch_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            input_ids: ``[B, S]``, tokens of the answers.
            position_ids: ``[B, S]``, padding −1 on the right. A row with position 0 takes its text.
            encoder_input_ids: ``[B, T]``, texts, padded on the right; other rows' are not kept.
            encoder_lens: ``[B, 1]``, tokens of each row's text, in every step.
            state: the tensors of all layers in order, a layer's own before those of the text.
            batch_index: ``[B, 1]``, the state row of each batch row (continuous batching).

        Returns:
            Logits ``[B, 1, vocab]`` and the new state.
        """
        with traceable_sizes(), functions_replaced(self.model, FUNCTIONS):
            return self._run(input_ids, RetainedStep(position_ids, batch_index), encoder_input_ids, encoder_lens, state)

    def _run(
        self,
        input_ids: torch.Tensor,
        step: RetainedStep,
        encoder_input_ids: torch.Tensor,
        encoder_lens: torch.Tensor,
        state: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model: Any = self.model
        places = torch.arange(encoder_input_ids.shape[1])[None]
        is_text = places < encoder_lens
        read = TextModel(encoder_of(model), _whole_output, self.is_blank)(encoder_input_ids, is_text.to(torch.int64))
        # Where an encoder pads to whole blocks, more states may come out than went in.
        read.last_hidden_state = read.last_hidden_state[:, : places.shape[1]]
        text = RetainedStep(torch.where(is_text & (step.first_position == 0), places, -1), step.batch_index)
        cache = self._cache(state, step, text)
        slots = torch.arange(cache.cross_attention_cache.layers[0].keys.shape[2])[None]
        # Where it is a parameter of its own: others hand it on to where nothing takes it.
        takes_positions = "decoder_position_ids" in inspect.signature(model.forward).parameters
        newest = at_places(step.last_token)
        has_head = isinstance(model.get_output_embeddings(), nn.Linear)
        with select_before_head(model, newest) if has_head else nullcontext(), running(step):
            output = model(
                encoder_outputs=read,
                attention_mask=(slots < encoder_lens).to(torch.int64),
                decoder_input_ids=input_ids,
                past_key_values=cache,
                use_cache=True,
                **({"decoder_position_ids": step.position_ids.clamp(min=0)} if takes_positions else {}),
            )
        return output.logits if has_head else newest(output.logits), cache.state()

    def _cache(
        self, state: Sequence[torch.Tensor], step: RetainedStep, text: RetainedStep
    ) -> RetainedEncoderDecoderCache:
        own: list[torch.Tensor] = []
        cross: list[torch.Tensor] = []
        given = iter(state)
        for own_spec, cross_spec in zip(self.own, self.cross, strict=True):
            own += [next(given) for _ in own_spec.tensors]
            cross += [next(given) for _ in cross_spec.tensors]
        return RetainedEncoderDecoderCache(retained_cache(self.own, own, step), retained_cache(self.cross, cross, text))


class _Flat(nn.Module):
    """The graph with its state as a flat list of inputs and outputs."""

    def __init__(self, inner: RetainedSeq2SeqLM, num_states: int):
        super().__init__()
        self.inner = inner
        self.num_states = num_states

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, state, rows = inputs[:4], inputs[4 : 4 + self.num_states], inputs[4 + self.num_states :]
        logits, new = self.inner(*first, state, *rows)
        return (logits.float(), *new)


def _named(given: GraphInput, part: str) -> GraphInput:
    """Upstream's name: ``past_key_self.i`` for ``past_key.i``."""
    name, _, layer = given.name.rpartition(".")
    return replace(given, name=f"{name}_{part}.{layer}")


def _state_inputs(own: list[StateSpec], cross: list[StateSpec], row_axis: str, num_rows: int) -> list[GraphInput]:
    # One call, so that no two axes have the same sample.
    given = state_inputs([*own, *cross], row_axis, num_rows)
    num_own = sum(len(spec.tensors) for spec in own)
    own_inputs, cross_inputs = iter(given[:num_own]), iter(given[num_own:])
    inputs = []
    for index, (own_spec, cross_spec) in enumerate(zip(own, cross, strict=True)):
        inputs += [_named(next(own_inputs), "self") for _ in own_spec.tensors]
        for tensor in cross_spec.tensors:
            inputs.append(_named(replace(next(cross_inputs), name=f"{tensor.name}.{index}"), "cross"))
    return inputs


def measure_encoder(model: Any, longest: int) -> Padding:
    """What padding a text may have, up to ``longest`` tokens, without changing what the encoder makes of it.

    Raises:
        UnsupportedModel: the encoder gives no finite answer, or another one each time.
    """
    encoder = TextModel(encoder_of(own_copy(model)), hidden_states)
    padding = measure_texts([encoder], TextUse(longest)).padding
    return Padding(None, reason="its encoder counts from a text's end") if padding.side == "left" else padding


def max_lens(model: Any) -> dict[str, int]:
    """The longest text and the longest answer that a model's embeddings of positions are for, by the axis's name."""
    if any(hasattr(module, "compute_bias") for module in model.modules()):
        return {}  # whatever its config says, such a model knows distances only
    limits: dict[str, int] = {}
    sides = {ENCODER_CTX_LEN: ("encoder", model.get_encoder()), CTX_LEN: ("decoder", model.get_decoder())}
    for axis, (side, module) in sides.items():
        config = getattr(module, "config", model.config).get_text_config()
        for name in (f"max_{side}_position_embeddings", "max_position_embeddings"):
            if isinstance(value := getattr(config, name, None), int) and value > 0:
                limits.setdefault(axis, value)
    return limits


def seq2seq_graph(
    model: nn.Module,
    ctx_len: int | None,
    continuous_batching: bool = False,
    is_blank: bool = False,
    text_len: int | None = None,
) -> TaskGraph:
    """The ``retained`` graph of a text-to-text model.

    Axes: ``batch_size``, ``seq_len`` (tokens of an answer), ``encoder_seq_len`` (of a text), ``ctx_len``,
    ``encoder_ctx_len``, ``sliding_window``, and ``full_batch_size`` for the state's rows under continuous batching.
    ``is_blank``: see :class:`QEfficient.transformers.tasks.sequence_inputs.Padding`. ``text_len``: a text to trace
    with, for models whose code looks at its length.
    """
    own, cross = encoder_decoder_specs(model)
    lowered = lower(model, "retained", ctx_len)
    biases_from_step(lowered.module)
    batch, seq, rows = 3, 7, 5 if continuous_batching else 3
    ids, axes = torch.zeros(batch, seq, dtype=torch.int64), {**_ROWS, 1: "seq_len"}
    text = torch.zeros(batch, text_len or _TEXT_SAMPLE_LEN, dtype=torch.int64)
    row_axis = "full_batch_size" if continuous_batching else "batch_size"
    state = _state_inputs(own, cross, row_axis, rows)
    inputs = [
        GraphInput("input_ids", ids, axes),
        GraphInput("position_ids", torch.arange(seq).repeat(batch, 1), axes),
        GraphInput("encoder_input_ids", text, {**_ROWS, 1: "encoder_seq_len"}),
        GraphInput("encoder_lens", torch.tensor([[11], [13], [5]]), _ROWS),
        *state,
    ]
    if continuous_batching:
        inputs.append(GraphInput("batch_index", torch.arange(batch)[:, None], _ROWS))
    state_axes = {f"{given.name}{RETAINED}": given.axes for given in state}
    limits, steps = max_lens(model), {ENCODER_CTX_LEN: "encoder_seq_len", CTX_LEN: "seq_len"}
    return TaskGraph(
        module=_Flat(RetainedSeq2SeqLM(lowered.module, own, cross, is_blank), len(state)).eval(),
        lowered=lowered,
        lowering="retained",
        num_layers=len(own),
        inputs=inputs,
        output_names=["logits", *state_axes],
        output_axes={"logits": _ROWS, **state_axes},
        axis_minimums={} if text_len is None else {"encoder_seq_len": text_len},
        axis_limits=limits | {steps[axis]: limit for axis, limit in limits.items()},
    )


def specializations(
    num_slots: int, state_sizes: dict[str, int], *, continuous_batching: bool
) -> tuple[Specialization, ...]:
    """Upstream's two shapes: one that reads texts and begins their answers, one that continues answers."""
    encoder = {"batch_size": 1 if continuous_batching else num_slots, "seq_len": 1}
    decode = {"batch_size": num_slots, "seq_len": 1}
    text_len = state_sizes["encoder_ctx_len"]
    return (
        Specialization(name="Encoder", symbols={**encoder, "encoder_seq_len": text_len, **state_sizes}),
        Specialization(name="Decode", symbols={**decode, "encoder_seq_len": 1, **state_sizes}),
    )
