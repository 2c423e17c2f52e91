"""The auto class of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.base.modeling_qeff import QEFFBaseModel, check_runtime
from QEfficient.contract import MODEL_GRAPH, Specialization
from QEfficient.generation.tasks.sequence_classification import ClassifierRecord
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.encoder import resolve_sequences
from QEfficient.transformers.models.sequence_plan import (
    MeasuredInputs,
    SequencePlan,
    check_positions,
    encoder_record,
    plan_sequences,
    specializations,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph


class QEFFAutoModelForSequenceClassification(QEFFBaseModel[SequencePlan, EncoderCompileOptions]):
    """A classifier of texts or of pairs of texts; with one label a reranker or a regression.

    ``generate`` returns ``{"logits": array}``, float32 ``[n, num_labels]``: for each text what the model gives it
    alone, whatever is in the batch beside it.

    Args:
        model: a Hugging Face model, already loaded.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "sequence_classification"
    options_class: ClassVar[type[EncoderCompileOptions]] = EncoderCompileOptions

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        from QEfficient.transformers.tasks.sequence_classification import prepare_classifier

        super().__init__(model, tokenizer=tokenizer)
        self._inputs = MeasuredInputs(prepare_classifier)

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        return any(head.endswith("ForSequenceClassification") for head in heads)

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        model = self._loaded()
        check_positions(model, options)
        return plan_sequences(
            model, self._inputs.contract(model, options.seq_lens[-1], self.tokenizer), options, target
        )

    def _resolve(self, plan: SequencePlan, options: EncoderCompileOptions) -> SequencePlan:
        return resolve_sequences(self, plan, options)

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.sequence_classification import classifier_graph

        return {MODEL_GRAPH: classifier_graph(self._inputs.module(plan.contract), plan.contract, plan.graph_lens)}

    def _specializations(
        self, plan: SequencePlan, options: EncoderCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        return specializations("SeqClassification", options)

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> ClassifierRecord:
        labels = sorted(self.config.id2label.items(), key=lambda item: int(item[0]))
        return ClassifierRecord(
            encoder=encoder_record(plan, options, self.config),
            labels=tuple(str(label) for _, label in labels),
            problem_type=self.config.problem_type,
        )

    def choose_lowering(self, target: Target) -> LoweringChoice:
        from QEfficient.transformers.lowering.select import LoweringChoice

        return LoweringChoice("encoder")

    def generate(
        self,
        inputs: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
    ) -> dict[str, Any]:
        """Classify texts with the compiled package.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the checkpoint's.

        Returns:
            ``{"logits": array}``, float32 ``[n, num_labels]``.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the longest compiled ``seq_len``.
        """
        check_runtime(runtime_ai100)
        outputs: dict[str, Any] = self._open(device_ids).generate(inputs, tokenizer=tokenizer)
        return outputs

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
