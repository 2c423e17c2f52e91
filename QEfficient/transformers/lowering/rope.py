"""Rotary embeddings that change with the length of a sequence: ``longrope`` and dynamic NTK.

transformers sees the length when it runs: that of the prompt for the prompt's tokens, and one more for each token of
the answer. A graph either takes the length of each token's sequence as an input, or has the embedding of one length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from QEfficient.errors import CorruptCheckpoint

_LENS: ContextVar[torch.Tensor | None] = ContextVar("rope_lens", default=None)


@contextmanager
def running_lens(lens: torch.Tensor) -> Iterator[None]:
    """Make ``lens [B, S]`` the lengths of the tokens' sequences, in this context only."""
    token = _LENS.set(lens)
    try:
        yield
    finally:
        _LENS.reset(token)


def current_lens(module: Any, position_ids: torch.Tensor) -> torch.Tensor:
    """The length of each token's sequence, of the shape of ``position_ids``: the step's, else what a module was settled
    for."""
    lens = _LENS.get()
    return torch.full_like(position_ids, getattr(module, "settled_len", None) or 0) if lens is None else lens


@dataclass(frozen=True)
class LengthRope:
    """An embedding of a module that depends on length.

    Attributes:
        module: with the frequencies.
        kind: its ``rope_type``.
        layer_type: which layers it is for, where the module has several.
    """

    module: Any
    kind: str
    layer_type: str | None

    @property
    def prefix(self) -> str:
        """Of the module's attributes."""
        return "" if self.layer_type is None else f"{self.layer_type}_"

    @property
    def original_len(self) -> int:
        """Tokens of the longest sequence that gets the original frequencies."""
        parameters = self.module.config.rope_parameters
        parameters = parameters if self.layer_type is None else parameters[self.layer_type]
        length = parameters.get("original_max_position_embeddings") if self.kind == "longrope" else None
        return int(length or self.module.config.max_position_embeddings)

    def frequencies(self, length: Any) -> tuple[torch.Tensor, float]:
        """The frequencies for a length, and the scale of the embedding.

        Args:
            length: a number or None, or of dynamic NTK a tensor ``[..., 1]``, which gives ``[..., D / 2]``.

        Raises:
            CorruptCheckpoint: the config's numbers make none.
        """
        extra = {} if self.layer_type is None else {"layer_type": self.layer_type}
        try:
            made: tuple[torch.Tensor, float] = ROPE_INIT_FUNCTIONS[self.kind](
                self.module.config, "cpu", seq_len=length, **extra
            )
        except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise CorruptCheckpoint(f"The config's rope_parameters make no '{self.kind}' embedding: {error}") from error
        return made

    def by_token(self, lens: torch.Tensor) -> torch.Tensor:
        """Frequencies ``[B, S, D / 2]`` for the length of each token's sequence ``[B, S]``."""
        if self.kind != "longrope":
            return self.frequencies(lens[..., None])[0]
        long, short = (self.frequencies(self.original_len + more)[0] for more in (1, 0))
        return torch.where((lens > self.original_len)[..., None], long, short)


def length_ropes(model: nn.Module) -> Iterator[LengthRope]:
    """The embeddings of a model that depend on length."""
    for module in model.modules():
        rope_type = getattr(module, "rope_type", None)
        kinds = rope_type if isinstance(rope_type, dict) else {None: rope_type}
        for layer_type, kind in kinds.items():
            if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
                yield LengthRope(module, kind, layer_type)


def rope_depends_on_length(model: nn.Module) -> bool:
    """Whether some rotary embedding changes its frequencies with the length of the sequence."""
    return any(True for _ in length_ropes(model))


def rope_remark(model: nn.Module, ctx_len: int) -> str | None:
    """What differs from transformers in a graph of one embedding; None where nothing does."""
    for rope in length_ropes(model):
        if ctx_len > rope.original_len:
            return (
                f"rope_type '{rope.kind}' changes the rotary embedding with the length of a text, and this graph "
                f"has one: that of ctx_len={ctx_len}. Texts of up to {rope.original_len} tokens get another one in "
                f"Hugging Face; compile with ctx_len={rope.original_len} for those."
            )
    return None


def restart_len(model: nn.Module) -> int | None:
    """The length beyond which ``longrope`` computes a sequence anew, with its long factors; None: it never does."""
    return min((rope.original_len for rope in length_ropes(model) if rope.kind == "longrope"), default=None)


def takes_lens(model: nn.Module) -> bool:
    """Whether the lengths of tokens can be an input of the model: each module's code takes frequencies by token, and
    all change at one length."""
    ropes = list(length_ropes(model))
    lengths = {rope.original_len for rope in ropes if rope.kind == "longrope"}
    return bool(ropes) and len(lengths) <= 1 and all(map(_takes_frequencies_by_token, ropes))


def _takes_frequencies_by_token(rope: LengthRope) -> bool:
    if rope.kind not in ("longrope", "dynamic"):
        return False
    positions, lens = torch.arange(3)[None], torch.full((1, 3), rope.original_len)
    module = _settled(copy.deepcopy(rope.module), [rope], rope.original_len)
    extra = () if rope.layer_type is None else (rope.layer_type,)
    inputs = (torch.zeros(1, 3, 1), positions, *extra)
    try:
        plain = module(*inputs)
        with running_lens(lens):
            by_token = module(*inputs)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):
        return False
    return all(torch.equal(a, b) for a, b in zip(plain, by_token, strict=True))


def settle_rope(model: nn.Module, ctx_len: int | None) -> None:
    """Give the embeddings of ``model``, a private copy, the frequencies for ``ctx_len``; while :func:`running_lens`
    has lengths, those for the lengths."""
    by_module: dict[nn.Module, list[LengthRope]] = {}
    for rope in length_ropes(model):
        by_module.setdefault(rope.module, []).append(rope)
    for module, ropes in by_module.items():
        _settled(module, ropes, ctx_len)


def _settled(module: Any, ropes: list[LengthRope], ctx_len: int | None) -> Any:
    for rope in ropes:
        inv_freq, scaling = rope.frequencies(ctx_len)
        setattr(module, f"{rope.prefix}inv_freq", inv_freq)
        setattr(module, f"{rope.prefix}attention_scaling", scaling)
        if rope.layer_type is None:
            module.rope_type = "default"
        else:
            module.rope_type = {**module.rope_type, rope.layer_type: "default"}
    module.settled_len = ctx_len
    forward = getattr(module.forward, "__func__", type(module).forward)  # a quirk's, or the class's
    module.forward = partial(_forward, module, forward, {rope.layer_type: rope for rope in ropes})
    return module


def _forward(
    module: Any,
    forward: Callable[..., Any],
    ropes: dict[str | None, LengthRope],
    x: torch.Tensor,
    position_ids: torch.Tensor,
    layer_type: str | None = None,
) -> Any:
    lens, rope, extra = _LENS.get(), ropes.get(layer_type), () if layer_type is None else (layer_type,)
    if lens is None or rope is None:
        return forward(module, x, position_ids, *extra)
    name = f"{rope.prefix}inv_freq"
    twin = copy.copy(module)
    twin._buffers = {key: value for key, value in module._buffers.items() if key != name}
    twin.__dict__[name] = rope.by_token(lens)
    return forward(twin, x, position_ids, *extra)


def forget_lengths(model: nn.Module) -> None:
    """Let a Hugging Face model start a text anew: dynamic NTK keeps the frequencies of the longest one so far."""
    for rope in length_ropes(model):
        original = getattr(rope.module, f"{rope.prefix}original_inv_freq", None)
        if rope.kind == "dynamic" and original is not None:
            setattr(rope.module, f"{rope.prefix}inv_freq", original.clone())
            for name in (f"{rope.prefix}max_seq_len_cached", "max_seq_len_cached"):
                if hasattr(rope.module, name):
                    setattr(rope.module, name, rope.module.original_max_seq_len)
