"""Linear attention and state spaces over one chunk that continues a cached state: one function per kernel of
transformers, without loops over tokens.

The functions in transformers cut a prompt into chunks of a fixed length, loop over tokens where they export, and let
padding decay the state. Here a step is one chunk, of any length up to ``RetainedStep.max_step_len``, and padding leaves
the state unchanged.

Shape legend: B rows, S tokens, H heads, G groups, K key size, V value size, P head size, N state size, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from QEfficient.transformers.lowering.step import RetainedStep, current_step


def _step() -> RetainedStep:
    step = current_step()
    assert step is not None, "the kernels run inside a step only"
    return step


def real_tokens(x: Tensor) -> Tensor:
    """``[B, S]``: which tokens of ``x [B, S, ...]`` are not padding; outside a step, all."""
    step = current_step()
    return torch.ones(x.shape[:2], dtype=torch.bool) if step is None else step.is_token


def num_doublings(num_tokens: int) -> int:
    """Rounds of a scan over a step; outside a step, over ``num_tokens``."""
    step = current_step()
    return ((num_tokens if step is None else step.max_step_len) - 1).bit_length()


def columns_with_past(cache: Cache, layer_idx: int, values: Tensor, num_before: int, state_idx: int = 0) -> Tensor:
    """Prepend the last ``num_before`` columns of the layer's convolution state: ``[B, D, S]`` to ``[B, D, K + S]``."""
    past = cache.get_conv_state(layer_idx, state_idx)
    columns = cache.update_conv_state(values, layer_idx, state_idx, conv_kernel_size=num_before)
    return functional.pad(values, (num_before, 0)) if past is None else columns


def recurrent_state(cache: Cache, layer_idx: int, like: Tensor, state_idx: int = 0) -> Tensor:
    """The layer's recurrent state; zeros like ``like`` if there is none."""
    state = cache.get_recurrent_state(layer_idx, state_idx)
    return torch.zeros_like(like) if state is None else state


def _not_after(num_tokens: Any) -> Tensor:
    """``[S, S]``: whether token j is not after token i."""
    places = torch.arange(num_tokens)
    return places[None] <= places[:, None]


def _pairwise_decay(log_decay: Tensor) -> Tensor:
    """``[..., S]`` of cumulated log decays to ``[..., S, S]``: the decay at i of the input of j; 0 for j after i."""
    seen, differences = decays_between(log_decay)
    return torch.where(seen, torch.where(seen, differences, 0.0).exp(), 0.0)


def decays_between(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Of cumulated log decays ``[..., S]``, ``[S, S]``: whether j is not after i, and ``[..., S, S]``: the decay from
    j to i."""
    return _not_after(log_decay.shape[-1]), log_decay[..., :, None] - log_decay[..., None, :]


def mamba2_chunk_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **kwargs: object,
) -> Any:
    """Mamba-2 (``mamba_chunk_scan_combined``).

    Args:
        hidden_states: ``[B, S, H, P]``.
        dt: ``[B, S, H]``; ``A`` ``[H]``; ``B`` and ``C`` ``[B, S, G, N]``; ``D`` and ``dt_bias`` ``[H]``.
        initial_states: ``[B, H, P, N]``.

    Returns:
        ``[B, S, H, P]``, and the final states ``[B, H, P, N]`` if asked for.
    """
    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    dt = functional.softplus(dt) if dt_softplus else dt
    dt = torch.clamp(dt, *dt_limit)
    dt = torch.where(real_tokens(dt)[..., None], dt, 0.0).transpose(1, 2)
    repeats = hidden_states.shape[2] // B.shape[2]
    x = hidden_states.float().transpose(1, 2)
    B, C = (state.float().repeat_interleave(repeats, dim=2).transpose(1, 2) for state in (B, C))
    decay = torch.cumsum(A.float()[:, None] * dt, dim=-1)
    weights = (C @ B.transpose(2, 3)) * _pairwise_decay(decay) * dt[:, :, None]
    output = weights @ x
    left = (decay[..., -1:] - decay).exp() * dt
    final = (x * left[..., None]).transpose(2, 3) @ B
    if initial_states is not None:
        output = output + decay.exp()[..., None] * (C @ initial_states.float().transpose(2, 3))
        final = final + decay[..., -1:, None].exp() * initial_states
    if D is not None:
        output = output + D.reshape(D.shape[0], 1, -1) * hidden_states.float().transpose(1, 2)
    output = output.transpose(1, 2).contiguous()
    return (output, final) if return_final_states else output


def mamba_selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **kwargs: object,
) -> Any:
    """Mamba (``selective_scan_fn``), which has no argument for the state to start from.

    Args:
        hidden_states: ``[B, D, S]``, and so ``dt`` and ``z``.
        A: ``[D, N]``; ``B`` and ``C`` ``[B, N, S]``; ``D`` and ``delta_bias`` ``[D]``.

    Returns:
        ``[B, D, S]``, and the last state ``[B, D, N]`` if asked for.
    """
    step = _step()
    dt = dt.float() if delta_bias is None else dt.float() + delta_bias.float()[:, None]
    dt = functional.softplus(dt) if delta_softplus else dt
    dt = torch.where(step.is_token[:, None], dt, 0.0)[..., None]
    kept = (A.float()[:, None] * dt).exp()  # [B, D, S, N]
    brought = dt * B.float().transpose(1, 2)[:, None] * hidden_states.float()[..., None]
    kept, brought = scan_linear(kept, brought, num_doublings(kept.shape[2]))
    states = kept * step.next_beginning(3)[:, :, None].float() + brought
    output = (states * C.float().transpose(1, 2)[:, None]).sum(-1)
    if D is not None:
        output = output + hidden_states * D[:, None]
    if z is not None:
        output = output * functional.silu(z)
    return (output, states[:, :, -1]) if return_last_state else output


def scan_linear(kept: Tensor, brought: Tensor, num_rounds: int) -> tuple[Tensor, Tensor]:
    """All prefixes of ``state -> kept * state + brought`` along axis 2: each round doubles the length they cover."""
    num_tokens = kept.shape[2]
    for doubling in range(num_rounds):
        shift = 1 << doubling
        kept_before = functional.pad(kept, (0, 0, shift, 0), value=1.0)[:, :, :num_tokens]
        brought_before = functional.pad(brought, (0, 0, shift, 0))[:, :, :num_tokens]
        kept, brought = kept * kept_before, kept * brought_before + brought
    return kept, brought


def _l2norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule (``chunk_gated_delta_rule``), and Kimi's, with one decay per key feature (``chunk_kda``).

    Args:
        query: ``[B, S, G, K]``, and so ``key``; ``value`` ``[B, S, H, V]``.
        g: log decays ``[B, S, H]`` or ``[B, S, H, K]``; ``beta`` ``[B, S, H]``.
        initial_state: ``[B, H, K, V]``.

    Returns:
        ``[B, S, H, V]``, and the final state ``[B, H, K, V]`` if asked for.
    """
    step = _step()
    dtype, repeats = query.dtype, value.shape[2] // key.shape[2]
    query, key = (x.float().repeat_interleave(repeats, dim=2).transpose(1, 2) for x in (query, key))
    if use_qk_l2norm_in_kernel:
        query, key = _l2norm(query), _l2norm(key)
    query, value = query * query.shape[-1] ** -0.5, value.float().transpose(1, 2)
    beta = torch.where(step.is_token[..., None], beta.float(), 0.0).transpose(1, 2)[..., None]
    g = g.float() if g.ndim == 4 else g.float()[..., None]
    decay = torch.where(step.is_token[..., None, None], g, 0.0).transpose(1, 2).cumsum(2)  # [B, H, S, K or 1]
    overlaps, scores = (_decayed_products(x, key, decay) for x in (key * beta, query))
    inverse = _inverse_of_unit_lower(overlaps, num_doublings(overlaps.shape[-1]))
    start = torch.zeros_like(key.transpose(2, 3) @ value) if initial_state is None else initial_state.float()
    # What each token adds, less what the state and the tokens before it predict already.
    new = inverse @ (value * beta - (key * beta * decay.exp()) @ start)
    output = (query * decay.exp()) @ start + scores @ new
    left = (decay[:, :, -1:] - decay).exp()
    final = decay[:, :, -1].exp()[..., None] * start + (key * left).transpose(2, 3) @ new
    return output.transpose(1, 2).contiguous().to(dtype), final if output_final_state else None


def _decayed_products(x: Tensor, key: Tensor, decay: Tensor) -> Tensor:
    """``[B, H, S, S]``: products of ``x`` at i with the keys at j not after i, as far as they have decayed by i."""
    if decay.shape[-1] == 1:
        return (x @ key.transpose(2, 3)) * _pairwise_decay(decay[..., 0])
    pairwise = _pairwise_decay(decay.transpose(2, 3))  # [B, H, K, S, S]
    return (x.transpose(2, 3)[..., :, None] * key.transpose(2, 3)[..., None, :] * pairwise).sum(2)


def _inverse_of_unit_lower(matrix: Tensor, num_rounds: int) -> Tensor:
    """Of the unit lower triangular matrix ``[..., S, S]`` whose part below the diagonal is that of ``matrix``.

    Block by block: where blocks of a size are inverted, the inverse of two neighbours A, D with C below A has
    ``-D⁻¹ C A⁻¹`` there. As stable as forward substitution, in as many steps as the size has doublings.
    """
    places = torch.arange(matrix.shape[-1])
    inverse = (places[:, None] == places[None]).to(matrix.dtype).expand(matrix.shape)
    for doubling in range(num_rounds):
        blocks = torch.div(places, 1 << doubling, rounding_mode="floor")
        is_below = (blocks[:, None] == blocks[None] + 1) & (torch.remainder(blocks, 2) == 0)[None]
        inverse = inverse - inverse @ torch.where(is_below, matrix, 0.0) @ inverse
    return inverse


KERNELS: dict[str, Callable[..., Any]] = {
    "mamba2_chunk_scan": mamba2_chunk_scan,
    "mamba_selective_scan": mamba_selective_scan,
    "torch_chunk_gated_delta_rule": chunk_gated_delta_rule,
    "chunk_kimi_delta_attention": chunk_gated_delta_rule,
}
"""By their names in transformers' modeling files."""
