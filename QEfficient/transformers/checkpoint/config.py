"""Opens a checkpoint's config without its weights. The Hub's client is imported only where there is no such folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from QEfficient.transformers.checkpoint.files import check_code, checked_name, code_names, local_folder, read_config
from QEfficient.transformers.checkpoint.loader_errors import loader_errors


@dataclass(frozen=True)
class OpenedConfig:
    """A folder with a config that may be read."""

    folder: Path
    config: dict[str, Any]

    @property
    def is_self_contained(self) -> bool:
        """Whether all of its code is in the folder."""
        return not any("--" in name for name in code_names(self.config))


def open_config(model_name: str, **options: Any) -> OpenedConfig:
    """The folder of a model and its config; only config and Python files are downloaded.

    Args:
        model_name: a folder, or a model id on the Hub.
        options: as of :func:`QEfficient.transformers.checkpoint.load.resolve`, and ``trust_remote_code``.

    Raises:
        CheckpointNotFound: there is no such model or folder, or it has no config.
        UnsafeCheckpoint: it brings code that was not allowed to run.
    """
    folder = local_folder(checked_name(model_name))
    is_elsewhere = not folder.is_dir() or options.get("gguf_file") is not None
    if is_elsewhere or not (folder / "config.json").is_file():
        from QEfficient.transformers.checkpoint import load as checkpoint

        folder = checkpoint.resolve(model_name, config_only=True, **options)
    with loader_errors(folder, "a file"):
        config = read_config(folder)
        check_code(folder, config, bool(options.get("trust_remote_code")))
    return OpenedConfig(folder, config)
