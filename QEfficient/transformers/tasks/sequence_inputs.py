"""Input sequences of encoders and classifiers: whole, padded, with an attention mask.

A sequence's result must not depend on the padding in its batch row. How a model takes padding is measured on the model
itself, not looked up by its name: see :mod:`QEfficient.transformers.tasks.padding_probe`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

Side = Literal["right", "left"]
TokenTypes = Literal["none", "optional", "required"]
Read = Callable[[Any, dict[str, Any], torch.Tensor], torch.Tensor]
"""Runs a model and returns the output that a task needs: ``(model, arguments, attention_mask) -> tensor``."""
TOKEN_TYPE_IDS = "token_type_ids"


@dataclass(frozen=True)
class Padding:
    """Padding that leaves the result of a sequence unchanged."""

    side: Side | None = "right"
    """Side of the padding; None: there must be none, a sequence runs at exactly its length."""
    is_blank: bool = False
    """Whether the embeddings of padding tokens are set to zero, which is what convolutions pad with."""
    is_left_out: bool = False
    """Whether convolutions and norms over time are made to take padding as what is beyond the end of a sequence."""
    is_masked_by_frames: bool = False
    """Whether the mask of a signal ends where its last whole frame does: some models pick one place of a frame."""
    reason: str = ""
    """Why there must be no padding."""


@dataclass(frozen=True)
class SequenceContract:
    """How a model takes input sequences."""

    padding: Padding
    token_type_ids: TokenTypes = "none"
    """Whether the graph takes ``token_type_ids``, which tell the two texts of a pair apart; "optional": the default is
    zeros."""
    end_token_id: int | None = None
    """A token that every sequence must contain, because the model reads its output there."""

    def ingredients(self) -> dict[str, Any]:
        """All that decides the graph, without the wording of reasons."""
        return asdict(replace(self, padding=replace(self.padding, reason="")))


def pad_token_id(config: PreTrainedConfig) -> int | None:
    """The model's padding token, if it has one."""
    token_id: int | None = getattr(config.get_text_config(), "pad_token_id", None)
    return token_id if token_id is not None and token_id >= 0 else None


def ordinary_tokens(config: PreTrainedConfig) -> list[int]:
    """Some tokens that mean nothing to the model's code, as padding and ends do."""
    config = config.get_text_config()
    special = {pad_token_id(config), *_special_ids(config)}
    vocab_size = getattr(config, "vocab_size", None) or 1000
    return [token for token in range(min(vocab_size, 1000)) if token not in special]


def _special_ids(config: PreTrainedConfig) -> set[int]:
    values = [value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))]
    return {token for value in values for token in (value if isinstance(value, list) else [value]) if token is not None}


class SequenceModel(nn.Module):
    """``model`` over ``input_ids``, ``attention_mask`` and optional ``token_type_ids``, all ``[B, S]``.

    Padding positions get the model's padding token, whatever the caller passed: models search for it to count
    positions and to locate the last token.
    """

    def __init__(self, model: nn.Module, read: Read, is_blank: bool = False):
        super().__init__()
        self.model = model
        self.read = read
        self.is_blank = is_blank

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        input_ids, attention_mask, *token_type_ids = inputs
        named = {TOKEN_TYPE_IDS: token_type_ids[0]} if token_type_ids else {}
        return self.run_named(input_ids, attention_mask, named)

    def run_named(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
        """The output, with further arguments of the model's forward."""
        model: Any = self.model
        ids = torch.where(attention_mask > 0, input_ids, pad_token_id(model.config) or 0)
        accepted = forward_parameters(model)
        arguments: dict[str, Any] = {"input_ids" if "input_ids" in accepted else model.main_input_name: ids}
        if "attention_mask" in accepted:
            arguments["attention_mask"] = attention_mask
        if "use_cache" in accepted:
            arguments["use_cache"] = False
        arguments.update(named)
        with _blank_padding(model, attention_mask if self.is_blank else None):
            return self._run(arguments, attention_mask)

    def _run(self, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        return self.read(self.model, arguments, attention_mask)


@contextmanager
def _blank_padding(model: Any, attention_mask: torch.Tensor | None) -> Iterator[None]:
    """Zero the embeddings where ``attention_mask`` is zero."""
    if attention_mask is None:
        yield
        return
    mask = attention_mask[:, :, None]
    handle = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output * mask)
    try:
        yield
    finally:
        handle.remove()


def forward_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of the model's forward."""
    return frozenset(inspect.signature(model.forward).parameters)


def stateless_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` over the same parameters, with separate configs and hooks, that uses no cache and returns its
    outputs by name, whatever the checkpoint stores."""
    copied = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()}).eval()
    for module in copied.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]
        if getattr(config, "return_dict", None) is False:
            config.return_dict = True  # type: ignore[union-attr]
    return copied


def hidden_states(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    """The last hidden states ``[B, S, D]``, or the vectors of the tokens that a model for retrieval makes of them."""
    return states_of(model(**arguments)).float()


def states_of(output: Any) -> torch.Tensor:
    """What an output has for each token."""
    vectors: torch.Tensor | None = getattr(output, "embeddings", None)
    return output.last_hidden_state if vectors is None else vectors
