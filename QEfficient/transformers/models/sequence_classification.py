"""The auto class of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.texts import TextsModel

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.sequence_inputs import TextContract, TextModel, TextUse


class QEFFAutoModelForSequenceClassification(TextsModel):
    """A classifier of texts or of pairs of texts; with one label a reranker or a regression.

    ``generate`` returns ``{"logits": array}``, float32 ``[n, num_labels]``: for each text what the model gives it
    alone, whatever is in the batch beside it.

    Args:
        model: a Hugging Face model, already loaded.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "sequence_classification"
    _specialization_name = "SeqClassification"

    @classmethod
    def _auto_class(cls) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def _prepare(self, use: TextUse) -> tuple[TextModel, TextContract]:
        from QEfficient.transformers.tasks.sequence_classification import prepare_classifier

        return prepare_classifier(self.model, use)

    def _graph(self, plan: dict[str, Any]) -> TaskGraph:
        from QEfficient.transformers.tasks.sequence_classification import classifier_graph

        return classifier_graph(*self._measured(plan), self._graph_lens(plan))

    def _package_body(self, plan: dict[str, Any], options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        labels = {str(index): str(label) for index, label in self.config.id2label.items()}
        about = {"id2label": labels, "problem_type": self.config.problem_type}
        return {**super()._package_body(plan, options, target), **about}

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: Any | None = None,
    ) -> list[tuple[int, float]]:
        """Put documents in the order of how well they fit a query, with a cross-encoder of one label.

        Args:
            query: what is asked.
            documents: what may answer it.
            device_ids: as of :meth:`generate`.
            tokenizer: as of :meth:`generate`.

        Returns:
            Each document's index and score between 0 and 1, best first.

        Raises:
            OptionError: the model has several labels.
        """
        ranked: list[tuple[int, float]] = self._open(device_ids).rank(query, documents, tokenizer=tokenizer)
        return ranked
