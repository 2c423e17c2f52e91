"""What the encoder of a sequence-to-sequence model reads: tokens of a text, or a signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from QEfficient.contract import FrameRule
from QEfficient.transformers.patches import functions_replaced, traceable_sizes
from QEfficient.transformers.quirks import complete, replaced_functions
from QEfficient.transformers.tasks.graph_spec import GraphInput
from QEfficient.transformers.tasks.sequence_inputs import (
    SequenceModel,
    forward_parameters,
    hidden_states,
    stateless_copy,
)
from QEfficient.transformers.tasks.signals import SignalContract, SignalModel, frame_rule, measure_signals, signal

LENS = "encoder_lens"
_SAMPLE_ROWS, _SAMPLE_LEN, _SAMPLE_FRAMES = 3, 13, 17


_SIGNALS = frozenset({"input_features", "input_values"})


def encoder_of(model: nn.Module) -> Any:
    """The encoder of ``model``, a private copy."""
    hf_model: Any = model
    encoder = hf_model.get_encoder()
    if not hasattr(encoder, "config"):
        encoder.config = hf_model.config
    taken = forward_parameters(encoder)
    takes_signals = bool(_SIGNALS & forward_parameters(model)) and "inputs_embeds" in taken
    return _EmbeddedFeatures(encoder) if takes_signals and not _SIGNALS & taken else encoder


class _EmbeddedFeatures(nn.Module):
    """An encoder of texts that gets features ``[B, T, D]`` of audio as if they were embeddings."""

    main_input_name = "input_features"

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.signal_width: int = encoder.config.get_text_config().hidden_size
        """Features of a place."""

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        return self.encoder(inputs_embeds=input_features, attention_mask=attention_mask)


class EncoderSource(Protocol):
    """What an encoder reads."""

    @property
    def axis(self) -> str:
        """Name of the axis of its length."""

    @property
    def rule(self) -> FrameRule | None:
        """States of the encoder by the length of what it reads; None: one a place."""

    @property
    def width(self) -> int | None:
        """Size of a state that the decoder attends to, where the model makes these of the encoder's output and more;
        None: they are the encoder's."""

    def inputs(self) -> list[GraphInput]:
        """Samples of the inputs of its graph: what it reads ``[B, T, ...]``, and its lengths ``encoder_lens [B, 1]``
        where there is padding."""

    def encoder(self, model: nn.Module) -> nn.Module:
        """Inputs to hidden states ``[B, T, D]``; ``model`` is a lowered one."""

    def minimums(self) -> dict[str, int]:
        """Least size of the axis, where the graph has one."""

    def maximums(self) -> dict[str, int]:
        """Greatest size of the axis, where the source sets one."""


@dataclass(frozen=True)
class TextSource:
    """Tokens.

    Args:
        is_blank: see :class:`QEfficient.transformers.tasks.sequence_inputs.Padding`.
        text_len: length to trace with, for models whose code depends on it.
    """

    is_blank: bool = False
    text_len: int | None = None
    axis: str = "encoder_seq_len"
    rule: None = None
    width: None = None

    def inputs(self) -> list[GraphInput]:
        """See :class:`EncoderSource`."""
        ids = torch.zeros(_SAMPLE_ROWS, self.text_len or _SAMPLE_LEN, dtype=torch.int64)
        lens = torch.tensor([[11], [_SAMPLE_LEN], [5]])
        rows = {0: "batch_size"}
        return [GraphInput("encoder_input_ids", ids, {**rows, 1: self.axis}), GraphInput(LENS, lens, rows)]

    def encoder(self, model: nn.Module) -> nn.Module:
        """See :class:`EncoderSource`."""
        return _TextEncoder(model, self.is_blank)

    def minimums(self) -> dict[str, int]:
        """See :class:`EncoderSource`."""
        return {} if self.text_len is None else {self.axis: self.text_len}

    def maximums(self) -> dict[str, int]:
        """See :class:`EncoderSource`; what the positions of a model say is known of the model."""
        return {}


@dataclass(frozen=True)
class SignalSource:
    """A signal.

    Args:
        contract: how the encoder takes it.
        longest: maximum length.
        is_fixed: whether the graph is for the only length that the model reads.
    """

    contract: SignalContract
    longest: int
    is_fixed: bool = False
    axis: str = "feature_len"
    width: None = None

    @property
    def rule(self) -> FrameRule | None:
        """See :class:`EncoderSource`."""
        return self.contract.rule

    def inputs(self) -> list[GraphInput]:
        """See :class:`EncoderSource`."""
        contract, rows = self.contract, {0: "batch_size"}
        usual = min(contract.rule.length(_SAMPLE_FRAMES) + 1, self.longest)
        length = contract.only_len if self.is_fixed and contract.only_len else usual
        sample = signal(length, contract.width)
        time = 2 if contract.is_time_last else 1
        sample = sample.transpose(1, 2) if contract.is_time_last else sample
        sample = sample.expand(_SAMPLE_ROWS, *sample.shape[1:]).clone()
        axes = rows if self.is_fixed else {**rows, time: self.axis}
        inputs = [GraphInput(contract.input, sample, axes)]
        if contract.only_len is None:
            lens = torch.tensor([[length * 2 // 3], [length], [length]])
            inputs.append(GraphInput(LENS, lens, rows))
        return inputs

    def encoder(self, model: nn.Module) -> nn.Module:
        """See :class:`EncoderSource`."""
        return _SignalEncoder(model, self.contract)

    def minimums(self) -> dict[str, int]:
        """See :class:`EncoderSource`."""
        return {} if self.is_fixed else {self.axis: self.contract.rule.length(2)}

    def maximums(self) -> dict[str, int]:
        """See :class:`EncoderSource`."""
        return {} if self.is_fixed else {self.axis: self.longest}


class _TextEncoder(nn.Module):
    """``encoder_input_ids [B, T]``, padded on the right, and ``encoder_lens [B, 1]`` to hidden states ``[B, T, D]``."""

    def __init__(self, model: nn.Module, is_blank: bool):
        super().__init__()
        self.model = model
        self.is_blank = is_blank

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        encoder_input_ids, encoder_lens = inputs
        num_tokens = encoder_input_ids.shape[1]
        is_token = (torch.arange(num_tokens)[None] < encoder_lens).to(torch.int64)
        with traceable_sizes(), functions_replaced(self.model, replaced_functions(self.model)):
            encoder = SequenceModel(encoder_of(self.model), hidden_states, self.is_blank)
            # An encoder that pads to whole blocks may return more states than it got tokens.
            return encoder(encoder_input_ids, is_token)[:, :num_tokens]


class _SignalEncoder(nn.Module):
    """A signal, padded on the right, and ``encoder_lens [B, 1]`` where it is, to hidden states ``[B, frames, D]``."""

    def __init__(self, model: nn.Module, contract: SignalContract):
        super().__init__()
        self.model = model
        self.contract = contract

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        read, *lens = inputs
        num_places = read.shape[2 if self.contract.is_time_last else 1]
        masks = [(torch.arange(num_places)[None] < each).to(torch.int64) for each in lens]
        takes_mask = self.contract.padding.side is not None
        with traceable_sizes(), functions_replaced(self.model, replaced_functions(self.model)):
            encoder = SignalModel(encoder_of(self.model), states_of_signal, self.contract)
            return encoder(read, *(masks if takes_mask else []))


def measure_encoder_of_signals(model: nn.Module, longest: int) -> SignalContract:
    """How the encoder of ``model`` takes signals of up to ``longest`` samples or features."""
    return measure_signals(_complete_encoder(model), states_of_signal, longest)


def signal_rule(model: nn.Module) -> FrameRule:
    """States that the encoder of ``model`` makes of a signal."""
    return frame_rule(_complete_encoder(model), states_of_signal)


def _complete_encoder(model: nn.Module) -> Any:
    copied = stateless_copy(model)
    complete(copied)
    return encoder_of(copied)


def states_of_signal(model: nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    """The last hidden states ``[B, frames, D]``."""
    return model(**arguments).last_hidden_state.float()
