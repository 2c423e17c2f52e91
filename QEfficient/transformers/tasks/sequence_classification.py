"""The graph of a classifier: logits ``[B, num_labels]`` of input sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.tasks.graph_spec import TaskGraph
from QEfficient.transformers.tasks.padding_probe import SequenceUse, measure_contract
from QEfficient.transformers.tasks.sequence_graph import sequence_graph
from QEfficient.transformers.tasks.sequence_inputs import (
    SequenceContract,
    SequenceModel,
    hidden_states,
    pad_token_id,
    stateless_copy,
)


def prepare_classifier(model: nn.Module, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
    """``model`` ready to be lowered, over the same parameters, and how it takes input sequences.

    Raises:
        UnsupportedModel: see :func:`measure_contract`.
    """
    copied = stateless_copy(model)
    if _reads_end_token(copied):
        module, reference = SequenceModel(copied, _logits_at_end_token), SequenceModel(copied, _logits)
        return module, measure_contract([module], use, copied.config.eos_token_id, reference)
    module = SequenceModel(copied, _logits)
    contract = measure_contract(_measured_modules(module), use)
    if contract.padding.side is None and _add_padding_token(copied):
        contract = measure_contract(_measured_modules(module), use)
    return module, contract


def _measured_modules(module: SequenceModel) -> list[SequenceModel]:
    """The classifier and the model under its head: padding may change states and, for one sequence, not the logits."""
    model: Any = module.model
    if model.config.is_encoder_decoder or model.base_model is model:
        return [module]
    return [module, SequenceModel(model.base_model, hidden_states)]


def _logits(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    return model(**arguments).logits.float()


def _reads_end_token(model: nn.Module) -> bool:
    """Whether its head takes the decoder's state at the last end token, as the BART and T5 families do."""
    return bool(model.config.is_encoder_decoder) and hasattr(model, "classification_head")


def _logits_at_end_token(model: Any, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    """As the forward of the model, which requires the same number of end tokens in each row of a batch."""
    ids = arguments["input_ids"]
    if hasattr(model, "_shift_right"):
        arguments = {**arguments, "decoder_input_ids": model._shift_right(ids)}
    states = model.base_model(**arguments).last_hidden_state
    positions = torch.arange(ids.shape[1])[None]
    last = torch.where((ids == model.config.eos_token_id) & (attention_mask > 0), positions, 0).amax(1)
    return model.classification_head(states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]).float()


def _add_padding_token(model: Any) -> bool:
    """Give a model without a padding token one after the vocabulary, embedded as token 0.

    Without one, models that pool the last token read the last position of a row, padding or not, and refuse batches.

    Returns:
        Whether a padding token was added.
    """
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # it has several
        return False
    if pad_token_id(model.config) is not None or not isinstance(embeddings, nn.Embedding):
        return False
    added = embeddings.num_embeddings
    for config in {id(config): config for config in (model.config, model.config.get_text_config())}.values():
        config.pad_token_id = added

    def embed_as_first(module: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (ids,) = arguments
        return (torch.where(ids == added, 0, ids),)

    embeddings.register_forward_pre_hook(embed_as_first)
    return True


def classifier_graph(module: SequenceModel, contract: SequenceContract, seq_lens: Sequence[int]) -> TaskGraph:
    """The graph of a classifier; axes and arguments as in :func:`sequence_graph`."""
    return sequence_graph(module, contract, {"logits": {0: "batch_size"}}, seq_lens)
