"""Loads what encodes the text of a checkpoint: the whole model, or the text tower beside one of images or sound."""

from __future__ import annotations

from typing import Any


class TextEncoders:
    """An auto class over those of transformers: a text encoder where they have one for the config, ``text_model`` of a
    model with two towers (CLIP, SigLIP, CLAP), and the base model otherwise."""

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Any:
        """As of transformers' auto classes."""
        auto_class = cls._auto_class(config)
        model = auto_class.from_config(config, **options)
        return _tower(model) or model

    @classmethod
    def from_pretrained(cls, folder: Any, *, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As of transformers' auto classes, with the loading info of what is returned."""
        model, info = cls._auto_class(config).from_pretrained(folder, config=config, **options)
        tower = _tower(model)
        return (model, info) if tower is None else (tower, _info_of_tower(info))

    @staticmethod
    def _auto_class(config: Any) -> Any:
        from transformers import AutoModel, AutoModelForTextEncoding

        return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


_TOWER = "text_model"


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
