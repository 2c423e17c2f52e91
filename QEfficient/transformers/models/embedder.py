"""What makes one vector of a text: a pooling, chosen by the caller or by the checkpoint's folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from QEfficient.generation.embedding import EmbeddingRecord
from QEfficient.generation.text_calls import EncodesTexts
from QEfficient.option_types import EncodeArgs
from QEfficient.transformers.models.sequence_model import QEFFSequenceModel

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from QEfficient.generation.texts import Texts
    from QEfficient.transformers.checkpoint.text_pipeline import TextPipeline

logger = logging.getLogger(__name__)

AUTO = "auto"
PoolingChoice = str | Sequence[str] | Callable[..., Any] | None


class QEFFEmbedder(QEFFSequenceModel, EncodesTexts):
    """A model that gives a vector of each text, or the states of its tokens.

    Attributes:
        pooling: what it was loaded with, or what the folder says.
    """

    pooling: PoolingChoice
    _embedding: EmbeddingRecord | None = None
    _pipeline: TextPipeline | None = None

    def _choose_pooling(self, pooling: PoolingChoice) -> None:
        from QEfficient.transformers.tasks.encoder import resolve_pooling

        self._asks_folder = isinstance(pooling, str) and pooling == AUTO
        self.pooling = None if self._asks_folder or (isinstance(pooling, str) and pooling == "none") else pooling
        resolve_pooling(self.pooling)

    def _read_pipeline(self, folder: Path) -> None:
        """Take over what sentence-transformers would do with the folder.

        Raises:
            CorruptCheckpoint: a file of it is damaged.
            UnsupportedModel: it would do what a package does not.
        """
        from QEfficient.transformers.checkpoint.text_pipeline import attach_text_layers, read_text_pipeline
        from QEfficient.transformers.models.embedding_settings import read_embedding

        pipeline = read_text_pipeline(folder) if self._asks_folder else None
        if pipeline is None:
            return
        attach_text_layers(self._loaded(), pipeline)
        self._pipeline, self.pooling = pipeline, pipeline.modes
        self._embedding = read_embedding(folder, self.tokenizer, self.config, pipeline.pools_prompt)
        logger.info("%s: %s; %s", folder, pipeline.described(), self._embedding)

    def _pooling_key(self) -> str | None:
        if self._pipeline is not None:
            return self._pipeline.described()
        if not callable(self.pooling):
            return self.pooling if isinstance(self.pooling, str | None) else " + ".join(self.pooling)
        import uuid

        # A callable cannot be hashed, so it never hits the store.
        return f"function {uuid.uuid4()}"

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the checkpoint's folder, by name; after :meth:`from_package` those of the package."""
        if self._embedding is not None:
            return dict(self._embedding.prompts)
        prompts: dict[str, str] = {} if self._model is not None else self._open().prompts
        return prompts

    def encode(
        self,
        texts: Texts,
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Unpack[EncodeArgs],
    ) -> np.ndarray:
        compiled = self._open(device_ids)
        vectors: np.ndarray = compiled.encode(texts, tokenizer=self._text_tokenizer(tokenizer), **options)
        return vectors
