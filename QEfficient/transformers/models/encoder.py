"""The auto class of encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from QEfficient.contract import MODEL_GRAPH
from QEfficient.generation.tasks.encoder import EncoderRecord
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.sequence_model import QEFFSequenceModel
from QEfficient.transformers.models.sequence_plan import SequencePlan, encoder_record

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_inputs import SequenceContract, SequenceModel


class QEFFAutoModel(QEFFSequenceModel):
    """An encoder: hidden states of texts, or one pooled vector each. Decoder-only models give their hidden states.

    ``generate`` returns ``{"output": array}``, float32 ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

    Args:
        model: a Hugging Face model, already loaded.
        pooling: None for hidden states, "mean" (or "avg"), "max", "cls", or a traceable function
            ``(last_hidden_states, attention_mask) -> tensor``.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "encoder"
    specialization_name = "Embedding"
    load_arguments = ("pooling",)

    def __init__(
        self, model: Any, pooling: str | Callable[..., Any] | None = None, *, tokenizer: Any | None = None
    ) -> None:
        from QEfficient.transformers.tasks.encoder import resolve_pooling

        super().__init__(model, tokenizer=tokenizer)
        resolve_pooling(pooling)
        self.pooling = pooling

    @classmethod
    def hf_auto_class(cls) -> Any:
        from QEfficient.transformers.checkpoint.text_encoders import TextEncoders

        return TextEncoders

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model without a head of a task, or with one that only pretraining needs."""
        return not any("For" in head and not head.endswith("ForMaskedLM") for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        return True

    def _prepare(self, model: PreTrainedModel, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
        from QEfficient.transformers.tasks.encoder import prepare_encoder

        return prepare_encoder(model, self.pooling, use)

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        return super()._plan(options, target).replaced(pooling=self._pooling_key())

    def _pooling_key(self) -> str | None:
        if not callable(self.pooling):
            return self.pooling
        import uuid

        # A callable cannot be hashed, so it never hits the store.
        return f"function {uuid.uuid4()}"

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.encoder import encoder_graph

        contract = self._text_contract(plan)
        module = self._inputs.module(contract)
        return {MODEL_GRAPH: encoder_graph(module, contract, self.pooling is not None, plan.graph_lens)}

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> EncoderRecord:
        return encoder_record(plan, options, self.config)
