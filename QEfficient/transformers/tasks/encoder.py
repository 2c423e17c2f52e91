"""The graph of an encoder: hidden states, or one pooled vector per sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from QEfficient.contract import TEXT_VECTORS
from QEfficient.errors import OptionError, UnsupportedModel, nearest
from QEfficient.transformers.checkpoint.text_pipeline import through_text_layers
from QEfficient.transformers.tasks.graph_spec import TaskGraph
from QEfficient.transformers.tasks.padding_probe import SequenceUse, measure_contract
from QEfficient.transformers.tasks.sequence_graph import sequence_graph
from QEfficient.transformers.tasks.sequence_inputs import (
    SequenceContract,
    SequenceModel,
    hidden_states,
    stateless_copy,
    states_of,
)
from QEfficient.transformers.tasks.two_towers import TextTower, text_vectors

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the mean over the tokens of each sequence."""
    weights = attention_mask[:, :, None].to(last_hidden_states.dtype)
    return (last_hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def mean_sqrt_len_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the sum over the tokens, divided by the square root of their number."""
    weights = attention_mask[:, :, None].to(last_hidden_states.dtype)
    return (last_hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1.0).sqrt()


def weighted_mean_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the mean over the tokens, each weighted by its place, from 1."""
    numbers = _places(attention_mask) - _first(attention_mask) + 1
    # Shares of the length: the sum of the numbers of 512 tokens is beyond fp16.
    shares = numbers.to(last_hidden_states.dtype) / attention_mask.shape[1]
    weights = (shares * attention_mask.to(last_hidden_states.dtype))[:, :, None]
    return (last_hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1e-4)


def max_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the maximum of each feature over the tokens of each sequence."""
    lowest = torch.finfo(last_hidden_states.dtype).min
    return torch.where(attention_mask[:, :, None] > 0, last_hidden_states, lowest).amax(1)


def cls_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the first token's state."""
    return _state_at(last_hidden_states, _first(attention_mask))


def last_pooling(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` to ``[B, D]``: the last token's state."""
    last = torch.where(attention_mask > 0, _places(attention_mask), 0).amax(1, keepdim=True)
    return _state_at(last_hidden_states, last)


def _places(attention_mask: torch.Tensor) -> torch.Tensor:
    return torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]


def _first(attention_mask: torch.Tensor) -> torch.Tensor:
    """``[B, 1]``: the place of each sequence's first token, behind padding on the left."""
    length = attention_mask.shape[1]
    return torch.where(attention_mask > 0, _places(attention_mask), length - 1).amin(1, keepdim=True)


def _state_at(states: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return states.gather(1, place[:, :, None].expand(-1, 1, states.shape[2]))[:, 0]


POOLINGS: dict[str, Pooling] = {
    "mean": mean_pooling,
    "avg": mean_pooling,
    "max": max_pooling,
    "cls": cls_pooling,
    "last": last_pooling,
    "lasttoken": last_pooling,
    "weightedmean": weighted_mean_pooling,
    "mean_sqrt_len_tokens": mean_sqrt_len_pooling,
}


def resolve_pooling(pooling: str | Sequence[str] | Pooling | None) -> Pooling | None:
    """The pooling function for a name, several names, whose results are put together, a function or None.

    Raises:
        OptionError: no pooling has this name.
    """
    if pooling is None or callable(pooling):
        return pooling
    names = [pooling] if isinstance(pooling, str) else [*pooling]
    unknown = [name for name in names if name not in POOLINGS]
    if unknown or not names:
        name = str(unknown[0]) if unknown else ""
        raise OptionError(
            f"There is no pooling '{name}'.{nearest(name, POOLINGS)} Known: {', '.join(POOLINGS)}, None, or a "
            "function (last_hidden_states, attention_mask) -> tensor."
        )
    functions = [POOLINGS[name] for name in names]
    if len(functions) == 1:
        return functions[0]
    return lambda states, mask: torch.cat([function(states, mask) for function in functions], dim=-1)


def prepare_encoder(
    model: nn.Module, pooling: str | Sequence[str] | Pooling | None, use: SequenceUse, types: Sequence[str] = ()
) -> tuple[SequenceModel, SequenceContract]:
    """``model`` with its pooling, ready to be lowered, and how it takes input sequences.

    Args:
        model: a Hugging Face model, or what reads its texts.
        pooling: as of :func:`resolve_pooling`; the layers that the model brings for texts come after it.
        use: what to measure for.
        types: further arguments of its forward with one value per token, of which texts have zeros.

    Raises:
        UnsupportedModel: the model does not return one hidden state per token; see :func:`measure_contract` also.
    """
    function = resolve_pooling(pooling)

    def read(model: Any, arguments: dict[str, Any], attention_mask: torch.Tensor) -> Any:
        output = model(**arguments)
        states = states_of(output).float()
        result = states if function is None else through_text_layers(model, function(states, attention_mask))
        return (result, output.pooler_output.float()) if isinstance(model, TextTower) else result

    def read_text(model: Any, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        zeros = {name: torch.zeros_like(attention_mask) for name in types}
        return _one_state_per_token(model, {**arguments, **zeros}, attention_mask)

    copied = stateless_copy(model)
    return SequenceModel(copied, read), measure_contract([SequenceModel(copied, read_text)], use)


def prepare_text_vectors(model: nn.Module, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
    """The tower for texts of a model with two, and how its vectors take input sequences.

    Raises:
        UnsupportedModel: it does not give one vector per text; see :func:`measure_contract` also.
    """
    module = SequenceModel(stateless_copy(model), text_vectors)
    return module, measure_contract([module], use)


def _one_state_per_token(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    name = type(model).__name__
    try:
        states = hidden_states(model, arguments, attention_mask)
    except AttributeError as error:
        if error.name != "last_hidden_state":
            raise
        raise UnsupportedModel(
            f"{name} returns no hidden state per token (last_hidden_state), which QEFFAutoModel needs. Pass it the "
            "encoder inside as a Hugging Face model."
        ) from error
    if states.shape[:2] != attention_mask.shape:
        raise UnsupportedModel(
            f"{name} returns hidden states of shape {tuple(states.shape)} for {attention_mask.shape[1]} tokens, and "
            "QEFFAutoModel needs one per token."
        )
    return states


def encoder_graph(
    module: SequenceModel, contract: SequenceContract, is_pooled: bool, seq_lens: Sequence[int]
) -> TaskGraph:
    """The graph of an encoder, with the vectors of a model with two towers; axes and arguments as in
    :func:`sequence_graph`."""
    axes = {0: "batch_size"} if is_pooled else {0: "batch_size", 1: "seq_len"}
    vectors = {TEXT_VECTORS: {0: "batch_size"}} if isinstance(module.model, TextTower) else {}
    return sequence_graph(module, contract, {"output": axes, **vectors}, seq_lens)
