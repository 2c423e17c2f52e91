"""Attention functions for transformers' ``AttentionInterface``: one for each lowering.

Shape legend: B rows, S tokens of this step, L keys, H query heads, K key/value heads, D key size, E value size.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.lowering.kv_cache_ops import attention
from QEfficient.transformers.lowering.masks import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from QEfficient.transformers.lowering.cache_spec import StateSpec

# Tensor arguments of models that the mask or the cache already accounts for.
_ANSWERED = frozenset({"position_ids", "cache_position", "position_embeddings", "cu_seq_lens_k"})


def _refuse_unknown(module: nn.Module, kwargs: dict[str, object]) -> None:
    unknown = [k for k, v in kwargs.items() if isinstance(v, torch.Tensor) and k not in _ANSWERED]
    if unknown and not _are_ignored(module, unknown):
        raise UnsupportedModel(
            f"{type(module).__name__} passes {', '.join(unknown)} to its attention function, which no lowering "
            "computes. See 'Adding a state kind' in the documentation."
        )


def _are_ignored(module: nn.Module, names: list[str]) -> bool:
    """Whether the eager attention of the model's file takes none of these arguments by name: they only pass by."""
    eager = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)
    return eager is not None and not {*names} & inspect.signature(eager).parameters.keys()


def retained_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention over all keys at once, ``[B, H, S, D]`` over ``[B, K, L, D]`` to ``[B, S, H, E]``.

    ``indices``: ``[B, S, T]`` or ``[B, H or 1, S, T]``, the visible keys of each query (sparse attention).
    ``position_bias``: ``[B or 1, H, S, L]``, added to the scores.
    ``cu_seq_lens_q``: ``[N + 1]``, where each of N sequences begins that lie one after the other on the axis of tokens.
    """
    _refuse_unknown(module, kwargs)
    if cu_seq_lens_q is not None and _may_be_several(cu_seq_lens_q):
        attention_mask = _within_sequences(cu_seq_lens_q, key.shape[2])
    if indices is not None:
        attention_mask = _with_indices(attention_mask, indices, key.shape[2])
    if position_bias is not None:
        attention_mask = position_bias if attention_mask is None else attention_mask + position_bias
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return attention(query, key, value, attention_mask, s_aux, scale, softcap), None


def _with_indices(mask: torch.Tensor | None, indices: torch.Tensor, num_keys: Any) -> torch.Tensor:
    """The mask ``[B, 1, S, L]``, with the keys not in ``indices`` masked too."""
    indices = indices if indices.ndim == 4 else indices[:, None]
    hidden = torch.ones(*indices.shape[:3], num_keys, dtype=torch.float32, device=indices.device)
    hidden = hidden.scatter(3, indices.long(), 0.0) * MASKED
    return hidden if mask is None else torch.minimum(hidden, mask)


def _may_be_several(begins: torch.Tensor) -> bool:
    """Whether there may be more than one sequence, whose tokens see those of no other."""
    return not isinstance(begins.shape[0], int) or begins.shape[0] > 2


def _within_sequences(begins: torch.Tensor, num_tokens: Any) -> torch.Tensor:
    """A mask ``[1, 1, T, T]`` that shows tokens to those of their sequence."""
    places = torch.arange(num_tokens, device=begins.device)
    numbers = (places[:, None] >= begins[None, 1:]).to(torch.int64).sum(1)
    return torch.where(numbers[:, None] == numbers[None], 0.0, MASKED)[None, None]


@dataclass
class PagedStep:
    """The block tables of one ragged step, and the layers whose attention ran.

    The tokens of all ``N`` sequences lie on one axis.
    """

    specs: list[StateSpec]
    key_caches: list[torch.Tensor]
    value_caches: list[torch.Tensor]
    past_lens: torch.Tensor
    """``[N]`` tokens of each sequence already in the cache."""
    subsequence_begins: torch.Tensor
    """``[N + 1]``, index of the first new token of each sequence."""
    block_indices: torch.Tensor
    """All sequences' blocks, one after the other."""
    block_indices_begins: torch.Tensor
    """``[N + 1]``, index of the first block of each sequence."""
    max_context_len: torch.Tensor
    """Scalar: length of the longest sequence, new tokens included."""
    attended: list[int] = field(default_factory=list)
    """Layers whose attention ran, in order."""


_PAGED_STEP: ContextVar[PagedStep] = ContextVar("paged_step")


@contextmanager
def paged_step(step: PagedStep) -> Iterator[PagedStep]:
    """Make ``step`` the current one for ``paged_attention``, in this context only."""
    token = _PAGED_STEP.set(step)
    try:
        yield step
    finally:
        _PAGED_STEP.reset(token)


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """One ``qeff::PagedAttention`` node: query ``[1, H, T, D]`` over blocks of KV to ``[1, T, H, E]``."""
    _refuse_unknown(module, kwargs)
    if softcap is not None:
        raise UnsupportedModel("PagedAttention has no soft-capping of attention logits")
    if attention_mask is not None:
        raise UnsupportedModel("PagedAttention takes no mask, and the model adds to the causal one")
    step = _PAGED_STEP.get()
    layer = module.layer_idx
    spec = step.specs[layer]
    if layer in step.attended:  # it writes what the first one wrote, with other values
        raise UnsupportedModel("PagedAttention keeps one key and value per token, and a layer attends to several")
    step.attended.append(layer)
    H, T, D = query.shape[1:]
    K, E = value.shape[1], value.shape[3]
    inputs = [
        query.transpose(1, 2).reshape(T, H * D),
        key.transpose(1, 2).reshape(T, K * D),
        value.transpose(1, 2).reshape(T, K * E),
        step.key_caches[layer],
        step.value_caches[layer],
        step.past_lens,
        step.subsequence_begins,
        step.block_indices,
        step.block_indices_begins,
        step.max_context_len,
    ]
    if s_aux is not None:
        inputs.append(s_aux.reshape(1, H, 1, 1))
    output = torch.onnx.ops.symbolic(
        "qeff::PagedAttention",
        inputs,
        attrs={
            "num_heads": H,
            "num_kv_heads": K,
            "key_dim": D,
            "value_dim": E,
            "scale": float(D**-0.5 if scaling is None else scaling),
            "window": spec.window or 0,
            "has_sink": int(s_aux is not None),
        },
        dtype=query.dtype,
        shape=(T, H * E),
        version=1,
    )
    return output.reshape(1, T, H, E), None
