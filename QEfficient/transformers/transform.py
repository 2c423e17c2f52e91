"""The public ``transform``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from QEfficient.base.modeling_qeff import QEFFBaseModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def transform(model: PreTrainedModel | QEFFBaseModel, form_factor: str = "cloud") -> QEFFBaseModel:
    """Wrap a Hugging Face model and check that it can be lowered.

    Args:
        model: a Hugging Face model, or one of this library's.
        form_factor: "cloud", the only one there is.

    Raises:
        OptionError: another form factor.
        UnsupportedModel: no lowering can express the model.
    """
    return QEFFBaseModel.wrap(model, form_factor)
