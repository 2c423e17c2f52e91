"""The checkpoint's generation config on its way into a package."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import CorruptCheckpoint
from QEfficient.generation_config import check_generation_config, entries_without_effect
from QEfficient.transformers.checkpoint.loader_errors import saver_errors

if TYPE_CHECKING:
    from transformers import GenerationMixin, PreTrainedModel

logger = logging.getLogger(__name__)


def save_generation_config(model: GenerationMixin, folder: Path) -> None:
    """Write ``generation_config.json`` into ``folder``."""
    with saver_errors(model.config.name_or_path or type(model).__name__, "the generation config"):
        model.generation_config.save_pretrained(folder)


def check_entries(model: PreTrainedModel) -> None:
    """Check what generation follows of a loaded model's config, which may be from ``config.json`` or of the caller.

    Raises:
        CorruptCheckpoint: an entry has a wrong type, or bans tokens that the model does not have.
    """
    from QEfficient.transformers.tasks.lm_head import output_embeddings

    where = f"The generation config of {model.config.name_or_path or type(model).__name__}"
    head: Any = output_embeddings(model)
    vocab_size = None if head is None else head.weight.shape[0]
    check_generation_config(model.generation_config.to_dict(), where, CorruptCheckpoint, vocab_size)


def warn_of_ignored_entries(model: GenerationMixin) -> None:
    """Say which entries of a model's config would change an output in transformers and do not here."""
    if ignored := entries_without_effect(model.generation_config.to_dict()):
        logger.warning(
            "The checkpoint's generation config asks for %s, which generate() does not follow.", ", ".join(ignored)
        )
