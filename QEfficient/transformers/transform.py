"""The public ``transform``, and the choice of an auto class for a checkpoint or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from QEfficient.base.modeling_qeff import QEFFBaseModel
from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def transform(model: PreTrainedModel | QEFFBaseModel, form_factor: str = "cloud") -> QEFFBaseModel:
    """Wrap a Hugging Face model and check that it can be lowered.

    Args:
        model: a Hugging Face model, or one of this library's.
        form_factor: "cloud", the only one there is.

    Raises:
        OptionError: another form factor.
        UnsupportedModel: no lowering can express the model.
    """
    if form_factor != "cloud":
        raise OptionError(f"form_factor must be 'cloud', got {form_factor!r}.")
    if isinstance(model, QEFFBaseModel):
        return model
    wrapped = class_for_model(model)(model)
    if wrapped.keeps_state:
        wrapped.check_lowering()
    return wrapped


def class_for_config(config: PretrainedConfig) -> type[QEFFBaseModel]:
    """The auto class of a checkpoint, by its config.

    Raises:
        UnsupportedModel: none takes it.
    """
    heads = config.architectures or []
    for task in TASKS.values():
        auto_class = task.load_auto_class()
        if auto_class.takes(config, heads):
            return auto_class
    raise UnsupportedModel(f"No class here runs {', '.join(heads)} yet.")


def class_for_model(model: PreTrainedModel) -> type[QEFFBaseModel]:
    """The auto class of a model that is loaded.

    Raises:
        UnsupportedModel: none takes it.
    """
    for task in TASKS.values():
        auto_class = task.load_auto_class()
        if auto_class.takes_model(model):
            return auto_class
    raise UnsupportedModel(f"No class here runs {type(model).__name__} yet.")
