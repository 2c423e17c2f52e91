"""Loads any checkpoint, with the auto class that its config asks for."""

from __future__ import annotations

from typing import Any

from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel
from QEfficient.tasks import auto_class_for_config


class QEFFCommonLoader:
    """Loads a checkpoint with the class that its config asks for."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, **kwargs: Any) -> QEFFBaseModel:
        """The class of the first task that takes the config: see :data:`QEfficient.tasks.TASKS`.

        Args:
            pretrained_model_name_or_path: a model on the Hub or a local folder.
            kwargs: as in the class's ``from_pretrained``; upstream's ``hf_token``, ``local_model_dir`` and
                ``full_batch_size`` are understood.
        """
        from QEfficient.transformers.checkpoint import load as checkpoint

        full_batch_size = kwargs.pop("full_batch_size", None)
        name, kwargs = _upstream_arguments(pretrained_model_name_or_path, kwargs)
        options = {key: value for key, value in kwargs.items() if key in checkpoint.LOAD_OPTIONS}
        trust = kwargs.get("trust_remote_code", False)
        checkpoint.check_options({**options, "trust_remote_code": trust})
        folder = checkpoint.resolve(name, **options)
        checkpoint.check_safe(folder, trust)
        config = checkpoint.load_config(folder, trust)
        chosen = auto_class_for_config(config)
        if full_batch_size is not None and "continuous_batching" in chosen.load_arguments:
            kwargs.setdefault("continuous_batching", True)
        return chosen.from_pretrained(name, **kwargs)


def _upstream_arguments(name: PathLike, kwargs: dict[str, Any]) -> tuple[PathLike, dict[str, Any]]:
    kwargs = dict(kwargs)
    if (token := kwargs.pop("hf_token", None)) is not None:
        kwargs["token"] = token
    local = kwargs.pop("local_model_dir", None)
    return local or name, {key: value for key, value in kwargs.items() if value is not None}
