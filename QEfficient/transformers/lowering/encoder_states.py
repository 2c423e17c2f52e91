"""The output of an encoder, as decoders of transformers read it, and the places where a decoder takes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput


@dataclass
class EncoderStates(ModelOutput):
    """Hidden states ``[B, T, D]``, and what else models look for beside them, which is none."""

    last_hidden_state: torch.Tensor | None = None
    hidden_states: None = None
    attentions: None = None
    attention_mask: None = None
    router_probs: None = None
    router_logits: None = None


DecoderOutput = Any
"""What a decoder returns: transformers' ModelOutput, or a tuple."""
_STATES, _MASK = "encoder_hidden_states", "encoder_attention_mask"


@dataclass(frozen=True)
class DecoderCall:
    """A call of a model's decoder."""

    states: torch.Tensor
    """``[B, T, D]``, what it attends to."""
    counts: torch.Tensor
    """int64 ``[B, T]``, which of them count."""
    output: DecoderOutput


def decoder_call(model: nn.Module, arguments: Mapping[str, Any], output: DecoderOutput = None) -> DecoderCall:
    """How ``model``, called with ``arguments`` of its encoder, calls its decoder: between the two models project
    states, merge them with others, or work out a mask, each in another way.

    Args:
        model: a Hugging Face model; its decoder's ``forward`` is replaced for the call.
        arguments: of its forward.
        output: what the decoder returns; None: it runs, over one token.
    """
    decoder: Any = decoder_of(model)
    usual, calls = decoder.forward, []

    def forward(*args: Any, **kwargs: Any) -> Any:
        called = inspect.signature(usual).bind(*args, **kwargs).arguments
        states, mask = called[_STATES], called.get(_MASK)
        counts = torch.ones(states.shape[:2], dtype=torch.int64) if mask is None else (mask > 0).to(torch.int64)
        calls.append(DecoderCall(states, counts, usual(*args, **kwargs) if output is None else output))
        return calls[-1].output

    decoder.forward = forward
    try:
        model(**arguments, decoder_input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False)
    finally:
        del decoder.forward
    return calls[0]


@contextmanager
def decoder_attends(model: nn.Module, states: torch.Tensor | None, mask: torch.Tensor | None) -> Iterator[None]:
    """Let the decoder of ``model`` attend to ``states [B, T, D]`` by ``mask [B, slots]``, whatever the model makes of
    the output of its encoder. None leaves the model's."""
    replaced = {name: value for name, value in ((_STATES, states), (_MASK, mask)) if value is not None}
    if not replaced:
        yield
        return

    def give(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, **replaced}

    hook = decoder_of(model).register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def decoder_of(model: nn.Module) -> nn.Module:
    """The outermost module of the decoder that takes the encoder's states.

    Raises:
        TypeError: there is none.
    """
    decoder: Any = model
    while _STATES not in inspect.signature(decoder.forward).parameters:
        inner = decoder.get_decoder()
        if inner is decoder:
            raise TypeError(f"{type(model).__name__} has no decoder that takes {_STATES}")
        decoder = inner
    module: nn.Module = decoder
    return module
