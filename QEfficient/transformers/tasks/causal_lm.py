"""The graphs of a causal LM: one per lowering.

The retained graph is upstream's public contract; the paged graph feeds OpenVINO's PagedAttention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from QEfficient.contract import NEXT_ROW, Specialization
from QEfficient.errors import UnsupportedModel
from QEfficient.options import CausalLMCompileOptions
from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.attention import PagedStep, paged_step
from QEfficient.transformers.lowering.cache_layers import retained_cache
from QEfficient.transformers.lowering.cache_spec import CTX_LEN, StateKind, StateSpec
from QEfficient.transformers.lowering.crossing import StepImages, media_specs
from QEfficient.transformers.lowering.infer_cache_spec import (
    accepted,
    cache_argument,
    refusing,
    text_reader,
)
from QEfficient.transformers.lowering.masks import BLOCKS_OF_STEP, NO_BLOCKS, REFUSED_BLOCKS
from QEfficient.transformers.lowering.media import MediaTokens
from QEfficient.transformers.lowering.recompute import TOKENS, plain_inputs
from QEfficient.transformers.lowering.recurrences import KERNELS
from QEfficient.transformers.lowering.representative_layers import first_layers, remembered
from QEfficient.transformers.lowering.step import MAX_STEP_LEN, RetainedStep, running
from QEfficient.transformers.patches import functions_replaced
from QEfficient.transformers.quirks import recomputed
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph
from QEfficient.transformers.tasks.lm_head import at_places, select_before_head
from QEfficient.transformers.tasks.media_inputs import (
    media_inputs,
    placed,
    split_positions,
    step_media,
    with_coordinates,
)
from QEfficient.transformers.tasks.position_limits import position_limits
from QEfficient.transformers.tasks.step_inputs import (
    SAMPLE_CTX_LEN,
    StepInputs,
    batch_index_input,
    state_inputs,
    token_inputs,
)


class RetainedCausalLM(nn.Module):
    """``(input_ids, position_ids, state, ...)`` to the logits of each row's newest tokens and the new state."""

    def __init__(
        self, model: nn.Module, specs: list[StateSpec], max_step_len: int, media_tokens: MediaTokens | None = None
    ):
        super().__init__()
        self.model = model
        self.specs = specs
        self.max_step_len = max_step_len
        self.media_tokens = media_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        state: Sequence[torch.Tensor],
        batch_index: torch.Tensor | None = None,
        comp_ctx_lengths: torch.Tensor | None = None,
        num_logits_to_keep: torch.Tensor | None = None,
        **media: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            input_ids: ``[B, S]``.
            position_ids: ``[B, S]``, padding −1 on the right; ``[1 + P, B, S]`` with the P coordinates of each token
                where rotary embeddings have several.
            state: the tensors of all layers in order.
            batch_index: ``[B, 1]``, the state row of each batch row (continuous batching).
            comp_ctx_lengths: any content; its length is the number of slots that the step attends to.
            num_logits_to_keep: ``[K, 1]``, any content; the step returns the logits of the K newest tokens.
            media: features and token types, see :func:`QEfficient.transformers.tasks.media_inputs.media_inputs`.

        Returns:
            Logits ``[B, K or 1, vocab]`` and the new state; between them, with ``image_idx``, what it is for the next
            step.
        """
        context_len = None if comp_ctx_lengths is None else comp_ctx_lengths.shape[0]
        places, coordinates = split_positions(position_ids)
        several = coordinates if coordinates.ndim == 3 else None
        step = RetainedStep(places, batch_index, context_len, self.max_step_len, several)
        shown = step_media(self.media_tokens, input_ids, media, step)
        cache = retained_cache(self.specs, state, step, shown.step if isinstance(shown, StepImages) else None)
        tokens = step.last_token
        if num_logits_to_keep is not None:
            back = torch.arange(num_logits_to_keep.shape[0], device=tokens.device) - (num_logits_to_keep.shape[0] - 1)
            tokens = (tokens + back[None]).clamp(min=0)

        inputs = accepted(self.model, {"input_ids": input_ids, "position_ids": coordinates.clamp(min=0)})
        functions = functions_replaced(self.model, KERNELS | (NO_BLOCKS if shown is None else BLOCKS_OF_STEP))
        with (
            select_before_head(self.model, at_places(tokens)),
            running(step),
            functions,
            placed(self.model, shown, cache) as extra,
        ):
            output = self.model(**inputs, **extra, **{cache_argument(self.model): cache}, use_cache=True)
        if shown is None or shown.next_row is None:
            return output.logits, cache.state()
        return output.logits, shown.next_row, cache.state()


class RecomputingCausalLM(nn.Module):
    """As :class:`RetainedCausalLM`, for a model without a cache: every step runs over all tokens of a row."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        quirk = recomputed(model)
        self.inputs = plain_inputs if quirk is None else quirk.inputs

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        state: Sequence[torch.Tensor],
        batch_index: torch.Tensor | None = None,
        num_logits_to_keep: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Arguments as in :class:`RetainedCausalLM`; ``state`` is one tensor of token ids, ``[R, C]``."""
        step = RetainedStep(position_ids, batch_index)
        stored = step.write(state[0][:, None, :, None], input_ids[:, None, :, None])
        tokens, count = step.read(stored)[:, 0, :, 0], step.last_position + 1
        tokens = torch.where(torch.arange(tokens.shape[1])[None] < count, tokens, 0)
        inputs, places = self.inputs(self.model.config, tokens, count)
        if num_logits_to_keep is not None:
            places = places + torch.arange(num_logits_to_keep.shape[0])[None] - (num_logits_to_keep.shape[0] - 1)
        places = places.clamp(min=0)

        with select_before_head(self.model, at_places(places)):
            output = self.model(**accepted(self.model, inputs), use_cache=False)
        return output.logits, [stored[:, 0, :, 0]]


class _PassThroughLayer(DynamicLayer):
    """Stores nothing: the paged attention node writes the step's keys."""

    def __init__(self, num_tokens: int):
        super().__init__()
        self.num_tokens = num_tokens
        self.is_updated = False

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object) -> Any:
        self.is_updated = True
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class PagedCausalLM(nn.Module):
    """A ragged batch of tokens over blocks of KV to the logits of the selected tokens."""

    def __init__(self, model: nn.Module, specs: list[StateSpec], media_tokens: MediaTokens | None = None):
        super().__init__()
        self.model = model
        self.specs = specs
        self.media_tokens = media_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_indices: torch.Tensor,
        past_lens: torch.Tensor,
        subsequence_begins: torch.Tensor,
        block_indices: torch.Tensor,
        block_indices_begins: torch.Tensor,
        max_context_len: torch.Tensor,
        key_caches: list[torch.Tensor],
        value_caches: list[torch.Tensor],
        **media: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            input_ids: ``[1, T]``, the new tokens of all sequences, concatenated.
            position_ids: ``[1, T]``, or ``[1 + P, 1, T]`` as in :class:`RetainedCausalLM`.
            logits_indices: ``[M]``, indices of the tokens to predict from.
            past_lens: and the four after it, see :class:`PagedStep`.
            key_caches: blocks of each layer; ``value_caches`` likewise.
            media: the features of the step's placeholders in order, see :func:`media_inputs`.

        Returns:
            Logits ``[1, M, vocab]``.
        """
        cache = Cache(layers=[_PassThroughLayer(input_ids.shape[1]) for _ in self.specs])
        tables = (past_lens, subsequence_begins, block_indices, block_indices_begins, max_context_len)
        step = PagedStep(self.specs, key_caches, value_caches, *tables)
        places, coordinates = split_positions(position_ids)
        rows = RetainedStep(places)
        shown = step_media(self.media_tokens, input_ids, media, rows)
        select = select_before_head(self.model, lambda hidden: hidden.index_select(1, logits_indices))
        functions = functions_replaced(self.model, {} if shown is None else REFUSED_BLOCKS)
        with paged_step(step), running(rows), select, functions, placed(self.model, shown) as extra:
            inputs = {"input_ids": input_ids, "position_ids": coordinates, **extra}
            output = self.model(**inputs, past_key_values=cache, use_cache=True)
        updated = [index for index, layer in enumerate(cache.layers) if layer.is_updated]
        if not step.attended or not set(updated) <= set(step.attended):
            raise UnsupportedModel(f"{type(self.model).__name__} computes attention without AttentionInterface")
        return output.logits


def specializations(
    options: CausalLMCompileOptions, chunk_len: int, state_sizes: dict[str, int], *, continuous_batching: bool
) -> tuple[Specialization, ...]:
    """The shapes of a ``retained`` graph: prefill and decode, each once per context length.

    Args:
        options: the options of ``compile``.
        chunk_len: prompt tokens per step.
        state_sizes: sizes of the state's named axes.
        continuous_batching: prefill one prompt at a time and decode all slots; else both run over the same batch.
    """
    whole = (options.ctx_len,)
    rows = 1 if continuous_batching else options.num_slots
    steps = [("Prefill", rows, chunk_len, 1, options.comp_ctx_lengths_prefill or whole)]
    lens, slots = options.comp_ctx_lengths_decode or whole, options.num_slots
    steps += [("Decode", slots, 1 + drafts, 1 + drafts, lens) for drafts in options.draft_lens or (0,)]
    if options.prefill_only is not None:
        unwanted = "Decode" if options.prefill_only else "Prefill"
        steps = [step for step in steps if step[0] != unwanted]
    made: dict[str, Specialization] = {}
    for name, rows, seq_len, num_logits, context_lens in steps:
        for context_len in context_lens:
            symbols = {"batch_size": rows, "seq_len": seq_len, **state_sizes}
            if options.has_comp_ctx_lengths:
                symbols["comp_ctx_lengths"] = context_len
            if options.num_speculative_tokens is not None:
                symbols["num_logits_to_keep"] = num_logits
            made.setdefault(str(symbols), Specialization(name=name, symbols=symbols))
    return tuple(made.values())


def _extra_inputs(with_rows: bool, with_context_lens: bool, with_num_logits: bool) -> list[GraphInput]:
    inputs = []
    if with_rows:
        inputs.append(batch_index_input())
    if with_context_lens:
        sample = torch.zeros(19, dtype=torch.int64)
        inputs.append(GraphInput("comp_ctx_lengths", sample, {0: "comp_ctx_lengths"}))
    if with_num_logits:
        sample = torch.zeros(2, 1, dtype=torch.int64)
        inputs.append(GraphInput("num_logits_to_keep", sample, {0: "num_logits_to_keep"}))
    return inputs


_MIN_CTX_LEN, _MAX_SEQ_LEN = 4, 128
"""Tracing bounds, since models branch on an empty cache and on the maximum length."""


def max_ctx_len(model: nn.Module) -> int | None:
    """Maximum context length by the model's positions; None if they set no limit."""
    limit, quirk = position_limits(model, _run_step).get(""), recomputed(model)
    return limit if limit is None or quirk is None else limit - quirk.num_added


def _run_step(model: nn.Module, ids: torch.Tensor) -> object:
    """Run a model over the tokens of a first step."""
    if (quirk := recomputed(model)) is not None:
        inputs, _ = quirk.inputs(model.config, ids, torch.tensor([[ids.shape[1]]]))
        return model(**accepted(model, inputs), use_cache=False)
    reader = text_reader(model)
    inputs = accepted(reader, {"input_ids": ids, "position_ids": torch.arange(ids.shape[1])[None]})
    return reader(**inputs, **{cache_argument(reader): DynamicCache(config=model.config)}, use_cache=True)


def _limits(model: nn.Module, most_tokens: int | None) -> dict[str, int]:
    limits = {"seq_len": _MAX_SEQ_LEN if most_tokens is None else most_tokens}
    if (limit := max_ctx_len(model)) is not None and limit > SAMPLE_CTX_LEN:
        limits[CTX_LEN] = limit
    return limits


def retained_graph(
    model: nn.Module,
    ctx_len: int | None,
    continuous_batching: bool = False,
    with_context_lens: bool = False,
    with_num_logits: bool = False,
    most_tokens: int | None = None,
    traced_len: int | None = None,
    media: MediaTokens | None = None,
    counts_rows: bool = False,
) -> TaskGraph:
    """The ``retained`` graph of ``model`` in upstream's contract.

    Axes: ``batch_size``, ``seq_len``, ``ctx_len``, ``sliding_window`` (slots of the sliding layers; with the
    size as suffix if there are several sizes), ``full_batch_size`` for the state's rows under continuous batching,
    ``comp_ctx_lengths`` and ``num_logits_to_keep`` if enabled. ``most_tokens``: maximum tokens per step, where a layer
    is recurrent. ``traced_len``: context length, where the graph depends on it. ``media``: what stands for images in a
    prompt; with axes ``vision_batch_size`` and ``vision_size``. ``counts_rows``: see :func:`media_inputs`.
    """
    specs = media_specs(model, media)
    lowered = lower(model, "retained", ctx_len)
    tokens, positions = token_inputs()
    extra = _extra_inputs(continuous_batching, with_context_lens, with_num_logits)
    if media is not None:
        positions = with_coordinates(positions, media.num_positions)
        extra += media_inputs(media, tokens, with_sets=True, counts_rows=counts_rows)
    inputs = StepInputs([tokens, positions], state_inputs(specs, continuous_batching, traced_len), extra)
    if specs == [TOKENS]:
        inner: nn.Module = RecomputingCausalLM(lowered.module)
    else:
        inner = RetainedCausalLM(lowered.module, specs, most_tokens or MAX_STEP_LEN, media)
    return TaskGraph(
        module=inputs.flatten(inner),
        lowered=lowered,
        lowering="retained",
        num_layers=len(specs),
        inputs=inputs.in_order,
        output_names=["logits", *([NEXT_ROW] if counts_rows else []), *inputs.new_state_axes],
        output_axes={
            "logits": {0: "batch_size"} | ({1: "num_logits_to_keep"} if with_num_logits else {}),
            **inputs.new_state_axes,
        },
        axis_minimums={CTX_LEN: _MIN_CTX_LEN},
        axis_limits=_limits(model, most_tokens),
    )


_PAGED_KINDS: frozenset[StateKind] = frozenset({"full", "sliding"})


def paged_graph(model: nn.Module, ctx_len: int | None, media: MediaTokens | None = None) -> TaskGraph:
    """The ``paged`` graph of ``model``.

    Axes: ``num_tokens``, ``num_sequences`` (and one more for the begins), ``num_blocks``, ``num_logits``; with
    ``media`` also ``vision_size``.
    """
    specs = media_specs(model, media)
    if unknown := {spec.kind for spec in specs} - _PAGED_KINDS:
        raise UnsupportedModel(f"PagedAttention keeps keys and values, not '{min(unknown)}' state")
    lowered = lower(model, "paged", ctx_len)
    i32 = torch.int32
    tokens = GraphInput("input_ids", torch.zeros(1, 7, dtype=torch.int64), {1: "num_tokens"})
    positions = GraphInput("position_ids", torch.arange(7)[None], {1: "num_tokens"})
    inputs = [
        tokens,
        positions if media is None else with_coordinates(positions, media.num_positions),
        GraphInput("logits_indices", torch.tensor([2, 6, 5]), {0: "num_logits"}),
        GraphInput("past_lens", torch.zeros(2, dtype=i32), {0: "num_sequences"}),
        GraphInput("subsequence_begins", torch.zeros(3, dtype=i32), {0: "num_begins"}),
        GraphInput("block_indices", torch.zeros(5, dtype=i32), {0: "num_blocks"}),
        GraphInput("block_indices_begins", torch.zeros(3, dtype=i32), {0: "num_begins"}),
        GraphInput("max_context_len", torch.tensor(7, dtype=i32)),
    ]
    for prefix in ("key_cache", "value_cache"):
        for index, spec in enumerate(specs):
            dim = spec.key_dim if prefix == "key_cache" else spec.value_dim
            blocks = torch.zeros(11, spec.num_heads, 32, dim)
            inputs.append(GraphInput(f"{prefix}.{index}", blocks, {0: "num_cache_blocks"}))
    extra = [] if media is None else media_inputs(media, tokens, with_sets=False, counts_rows=False)
    inner = PagedCausalLM(lowered.module, specs, media)
    return TaskGraph(
        module=_FlatPaged(inner, len(specs), [item.name for item in extra]).eval(),
        lowered=lowered,
        lowering="paged",
        num_layers=len(specs),
        inputs=inputs + extra,
        output_names=["logits"],
        output_axes={"logits": {1: "num_logits"}},
    )


def why_not(model: nn.Module, lowering: str, media: MediaTokens | None = None) -> str | None:
    """Why ``lowering`` cannot express ``model``; None if it can. Runs one step without weights, without tracing."""
    if lowering == "paged" and not getattr(model, "_can_set_attn_implementation", lambda: True)():
        return "the model computes attention without AttentionInterface"
    first = first_layers(model)
    if first is not None and why_not_run(first.module, lowering, media) is None:
        return None
    return why_not_run(model, lowering, media)


@remembered
def why_not_run(model: nn.Module, lowering: str, media: MediaTokens | None = None) -> str | None:
    """The same, running every layer of ``model``."""
    try:
        graph = _GRAPHS[lowering](model, ctx_len=None, media=media)
        fake_mode = graph.lowered.fake_mode
        with refusing(graph.lowered.module), fake_mode, torch.no_grad():
            graph.module(*(fake_mode.from_tensor(item.sample, static_shapes=True) for item in graph.inputs))
    except UnsupportedModel as error:
        return str(error)
    return None


class _FlatPaged(nn.Module):
    """A paged graph whose caches are a flat list of inputs."""

    def __init__(self, inner: PagedCausalLM, num_layers: int, extra_names: list[str]):
        super().__init__()
        self.inner = inner
        self.num_layers, self.extra_names = num_layers, extra_names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        end = len(inputs) - len(self.extra_names)
        begin, middle = end - 2 * self.num_layers, end - self.num_layers
        extra = dict(zip(self.extra_names, inputs[end:], strict=True))
        return self.inner(*inputs[:begin], list(inputs[begin:middle]), list(inputs[middle:end]), **extra).float()


_GRAPHS: dict[str, Callable[..., TaskGraph]] = {"retained": retained_graph, "paged": paged_graph}
