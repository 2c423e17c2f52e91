"""How long a context is when nobody says: as long as the model, the memory and the cost of a step allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from QEfficient.contract import LoweringName
from QEfficient.machine import memory_bytes
from QEfficient.targets import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.transformers.lowering.cache_spec import StateSpec

_READ_AT_EVERY_STEP = 1024
"""A retained step computes over the whole context, full or not."""
_SMALLEST = 128


def default_ctx_len(
    model: PreTrainedModel, specs: Sequence[StateSpec], target: Target, lowering: LoweringName, num_slots: int
) -> int:
    """Tokens of a slot, prompt and answer together, where ``ctx_len`` is not passed.

    Args:
        model: its config says how many positions it has.
        specs: its state.
        target: has the default.
        lowering: paged contexts cost what is used of them.
        num_slots: sequences that run at once.
    """
    from QEfficient.transformers.lowering.infer_cache_spec import depends_on_length
    from QEfficient.transformers.tasks.causal_lm import max_ctx_len

    if depends_on_length(model, [*specs]):  # the graph is for one length, and larger with it
        return _SMALLEST
    longest = target.ctx_len if lowering == "paged" else min(target.ctx_len, _READ_AT_EVERY_STEP)
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    limits = [limit for limit in (positions, max_ctx_len(model)) if isinstance(limit, int) and limit > 0]
    ctx_len, memory = min([longest, *limits]), memory_bytes()
    while memory is not None and ctx_len > _SMALLEST and _state_bytes(specs, ctx_len) * num_slots > memory // 4:
        ctx_len //= 2
    return ctx_len


def _state_bytes(specs: Sequence[StateSpec], ctx_len: int) -> int:
    """Of a slot whose context is full."""
    from QEfficient.transformers.lowering.cache_spec import STATE_VALUE_BYTES, axis_sizes

    sizes = Counter(axis_sizes([*specs], ctx_len))  # not media's, whose number another option settles
    return sum(tensor.num_values(sizes) for spec in specs for tensor in spec.tensors) * STATE_VALUE_BYTES
