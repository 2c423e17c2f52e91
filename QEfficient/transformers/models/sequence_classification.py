"""The auto class of classifiers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from QEfficient.contract import MODEL_GRAPH
from QEfficient.generation.embedding import EmbeddingRecord
from QEfficient.generation.tasks.sequence_classification import ClassifierRecord
from QEfficient.generation.text_calls import Ranking, ScoresTexts
from QEfficient.option_types import PredictArgs, RankArgs
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models import score_activation
from QEfficient.transformers.models.embedding_settings import read_embedding
from QEfficient.transformers.models.sequence_model import QEFFSequenceModel
from QEfficient.transformers.models.sequence_plan import SequencePlan, encoder_record

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from QEfficient.generation.tasks.sequence_classification import Activation
    from QEfficient.generation.texts import Texts
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_inputs import SequenceContract, SequenceModel

logger = logging.getLogger(__name__)


class QEFFAutoModelForSequenceClassification(QEFFSequenceModel, ScoresTexts):
    """A classifier of texts or of pairs of texts; with one label a reranker or a regression.

    ``generate`` returns ``{"logits": array}``, float32 ``[n, num_labels]``: for each text what the model gives it
    alone, whatever is in the batch beside it.

    Args:
        model: a Hugging Face model, already loaded.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "sequence_classification"
    specialization_name = "SeqClassification"
    _activation_in_folder: str | None = None
    _embedding: EmbeddingRecord | None = None

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        return any(head.endswith("ForSequenceClassification") for head in heads)

    def _read_files(self, folder: Path) -> None:
        self._activation_in_folder = score_activation.name_in_folder(folder)
        self._activation()
        if (folder / "modules.json").is_file():
            self._embedding = read_embedding(folder, self.tokenizer, self.config)

    def _activation_name(self) -> str | None:
        return self._activation_in_folder or score_activation.name_in_config(self.config)

    def _activation(self) -> Activation | None:
        """What makes scores of logits, where the checkpoint says it."""
        return score_activation.activation(self._activation_name())

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        self._activation()
        return super()._plan(options, target)

    def _prepare(self, model: PreTrainedModel, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
        from QEfficient.transformers.tasks.sequence_classification import prepare_classifier

        return prepare_classifier(model, use)

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.sequence_classification import classifier_graph

        contract = self._text_contract(plan)
        return {MODEL_GRAPH: classifier_graph(self._inputs.module(contract), contract, plan.graph_lens)}

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> ClassifierRecord:
        if (name := self._activation_name()) is not None and not score_activation.is_of_torch(name):
            logger.warning("The checkpoint scores with %s, code that is not torch's: the default is used.", name[:60])
        return ClassifierRecord(
            encoder=replace(encoder_record(plan, options, self.config), embedding=self._embedding),
            labels=self._labels(),
            problem_type=self.config.problem_type,
            activation=self._activation(),
        )

    @property
    def labels(self) -> list[str]:
        labels: list[str] = self._open().labels if self._model is None else list(self._labels())
        return labels

    def _labels(self) -> tuple[str, ...]:
        labels = sorted(self.config.id2label.items(), key=lambda item: int(item[0]))
        return tuple(str(label) for _, label in labels)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        scores: np.ndarray = self._open().scores(logits)
        return scores

    def predict(
        self,
        pairs: Texts,
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Unpack[PredictArgs],
    ) -> np.ndarray:
        compiled = self._open(device_ids)
        scores: np.ndarray = compiled.predict(pairs, tokenizer=self._text_tokenizer(tokenizer), **options)
        return scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Unpack[RankArgs],
    ) -> Ranking:
        ranked: Ranking = self._open(device_ids).rank(
            query, documents, tokenizer=self._text_tokenizer(tokenizer), **options
        )
        return ranked
