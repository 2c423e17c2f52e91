"""The graph of a classifier: logits ``[B, num_labels]`` of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from QEfficient.transformers.tasks.graph_spec import TaskGraph
from QEfficient.transformers.tasks.sequence_inputs import (
    TextContract,
    TextModel,
    TextUse,
    hidden_states,
    measure_texts,
    own_copy,
    pad_token_id,
    text_graph,
)


def prepare_classifier(model: nn.Module, use: TextUse) -> tuple[TextModel, TextContract]:
    """``model`` ready to be lowered, over the same parameters, and how it takes texts when used so.

    Raises:
        UnsupportedModel: it cannot be run on texts.
    """
    copied = own_copy(model)
    if _reads_end_token(copied):
        module, reference = TextModel(copied, _logits_at_end_token), TextModel(copied, _logits)
        return module, measure_texts([module], use, copied.config.eos_token_id, reference)
    module = TextModel(copied, _logits)
    contract = measure_texts(_watched(module), use)
    if contract.padding.side is None and _add_padding_token(copied):
        contract = measure_texts(_watched(module), use)
    return module, contract


def _watched(module: TextModel) -> list[TextModel]:
    """The classifier, and what is under its head, where padding shows that the logits of one text may hide."""
    model: Any = module.model
    if model.config.is_encoder_decoder or model.base_model is model:
        return [module]
    return [module, TextModel(model.base_model, hidden_states)]


def _logits(model: nn.Module, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    return model(**arguments).logits.float()


def _reads_end_token(model: nn.Module) -> bool:
    """Whether its head takes the decoder's state at the last end token, as the BART and T5 families do."""
    return bool(model.config.is_encoder_decoder) and hasattr(model, "classification_head")


def _logits_at_end_token(model: Any, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    """What the model's own forward does, which asks each row of a batch for the same number of end tokens."""
    ids = arguments["input_ids"]
    if hasattr(model, "_shift_right"):
        arguments = {**arguments, "decoder_input_ids": model._shift_right(ids)}
    states = model.base_model(**arguments).last_hidden_state
    positions = torch.arange(ids.shape[1])[None]
    last = torch.where((ids == model.config.eos_token_id) & (attention_mask > 0), positions, 0).amax(1)
    return model.classification_head(states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]).float()


def _add_padding_token(model: Any) -> bool:
    """Give a model that has no padding token one that no text has: behind the vocabulary, embedded as token 0.

    Without one, models that read a text's last token read the last position of a row, be it padding or not, and
    refuse batches.

    Returns:
        Whether it had none, and has one now.
    """
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # it has several
        return False
    if pad_token_id(model.config) is not None or not isinstance(embeddings, nn.Embedding):
        return False
    added = embeddings.num_embeddings
    for config in {id(held): held for held in (model.config, model.config.get_text_config())}.values():
        config.pad_token_id = added

    def embed_as_first(module: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (ids,) = arguments
        return (torch.where(ids == added, 0, ids),)

    embeddings.register_forward_pre_hook(embed_as_first)
    return True


def classifier_graph(module: TextModel, contract: TextContract, seq_lens: Sequence[int]) -> TaskGraph:
    """The graph of a classifier with axes ``batch_size`` and ``seq_len``, or of one length; see :func:`text_graph`."""
    return text_graph(module, contract, "logits", {0: "batch_size"}, seq_lens)
