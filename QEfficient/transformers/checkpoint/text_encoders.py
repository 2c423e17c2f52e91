"""Loads what encodes the text of a checkpoint: the whole model, or the text tower beside one of images or sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from QEfficient.errors import UnsupportedModel
from QEfficient.processing.processor import has_processor
from QEfficient.transformers.tasks.two_towers import has_two_towers


class TextEncoders:
    """An auto class over those of transformers: a text encoder where they have one for the config, ``text_model`` of a
    model with two towers (CLIP, SigLIP, CLAP), and the base model otherwise. A model that gives vectors of images is
    whole where its checkpoint has what reads images."""

    label = "text encoder"

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Any:
        """As of transformers' auto classes."""
        if (saved_by := _saved_by(config)) is not None:
            return saved_by._from_config(config)
        model = _auto_class(config).from_config(config, **options)
        return model if _reads_images(model) else _tower(model) or model

    @classmethod
    def from_pretrained(cls, folder: Any, *, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As of transformers' auto classes, with the loading info of what is returned.

        Raises:
            UnsupportedModel: the checkpoint has nothing of the text tower.
        """
        model, info = (_saved_by(config) or _auto_class(config)).from_pretrained(folder, config=config, **options)
        if _reads_images(model) or (tower := _tower(model)) is None:
            return model, info
        info = _info_of_tower(info)
        if info["missing_keys"] >= dict(tower.named_parameters()).keys():
            raise UnsupportedModel(
                f"{folder} has no weights for the {_TOWER} of {type(model).__name__}, which encodes text: it was saved "
                f"as {', '.join(config.architectures or ['another class'])}, with other names."
            )
        tower.config.name_or_path = model.config.name_or_path
        return tower, info


def _auto_class(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


def _saved_by(config: Any) -> Any | None:
    """The class that a checkpoint names, where transformers has no auto class for its config: a tower saved alone."""
    import transformers

    if type(config) in _auto_class(config)._model_mapping or getattr(config, "auto_map", None):
        return None
    classes = [getattr(transformers, name, None) for name in config.architectures or ()]
    return next((each for each in classes if getattr(each, "config_class", None) is type(config)), None)


_TOWER = "text_model"


def _reads_images(model: Any) -> bool:
    """Whether ``model`` gives vectors of images, and its checkpoint's processor reads them."""
    return has_two_towers(model) and has_processor(Path(model.config.name_or_path))


def _tower(model: Any) -> Any | None:
    """The text tower of a model whose towers meet in one space, where ``get_text_features`` reads it."""
    return getattr(model, _TOWER, None) if hasattr(model, "get_text_features") else None


def _info_of_tower(info: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{_TOWER}."
    missing = {name.removeprefix(prefix) for name in info.get("missing_keys", ()) if name.startswith(prefix)}
    mismatched = {
        (name.removeprefix(prefix), *shapes)
        for name, *shapes in info.get("mismatched_keys", ())
        if name.startswith(prefix)
    }
    return info | {"missing_keys": missing, "mismatched_keys": mismatched}
