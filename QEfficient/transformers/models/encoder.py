"""The auto class of encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.base.modeling_qeff import QEFFBaseModel, check_runtime
from QEfficient.contract import MODEL_GRAPH, Specialization
from QEfficient.errors import ExportError, SizeDependence
from QEfficient.generation.tasks.encoder import EncoderRecord
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.sequence_plan import (
    MeasuredInputs,
    SequencePlan,
    check_positions,
    encoder_record,
    narrow,
    plan_sequences,
    specializations,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph


class QEFFAutoModel(QEFFBaseModel[SequencePlan, EncoderCompileOptions]):
    """An encoder: hidden states of texts, or one pooled vector each. Decoder-only models give their hidden states.

    ``generate`` returns ``{"output": array}``: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

    Args:
        model: a Hugging Face model, already loaded.
        pooling: None for hidden states, "mean" (or "avg"), "max", "cls", or a traceable function
            ``(last_hidden_states, attention_mask) -> tensor``.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "encoder"
    options_class: ClassVar[type[EncoderCompileOptions]] = EncoderCompileOptions
    load_arguments = ("pooling",)

    def __init__(
        self, model: Any, pooling: str | Callable[..., Any] | None = None, *, tokenizer: Any | None = None
    ) -> None:
        from QEfficient.transformers.tasks.encoder import prepare_encoder, resolve_pooling

        super().__init__(model, tokenizer=tokenizer)
        resolve_pooling(pooling)
        self.pooling = pooling
        self._inputs = MeasuredInputs(lambda model, use: prepare_encoder(model, self.pooling, use))

    @classmethod
    def hf_auto_class(cls) -> Any:
        return _TextEncoders

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model without a head of a task, or with one that only pretraining needs."""
        return not any("For" in head and not head.endswith("ForMaskedLM") for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        return True

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        model = self._loaded()
        check_positions(model, options)
        contract = self._inputs.contract(model, options.seq_lens[-1], self.tokenizer)
        return plan_sequences(model, contract, options, target).replaced(pooling=self._pooling_key())

    def _pooling_key(self) -> str | None:
        if not callable(self.pooling):
            return self.pooling
        import uuid

        # A callable cannot be hashed, so it never hits the store.
        return f"function {uuid.uuid4()}"

    def _resolve(self, plan: SequencePlan, options: EncoderCompileOptions) -> SequencePlan:
        return resolve_sequences(self, plan, options)

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.encoder import encoder_graph

        module = self._inputs.module(plan.contract)
        return {MODEL_GRAPH: encoder_graph(module, plan.contract, self.pooling is not None, plan.graph_lens)}

    def _specializations(
        self, plan: SequencePlan, options: EncoderCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        return specializations("Embedding", options)

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> EncoderRecord:
        return encoder_record(plan, options, self.config)

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
        """Run texts through the compiled package.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the checkpoint's.

        Returns:
            ``{"output": array}``, float32 ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the longest compiled ``seq_len``.
        """
        check_runtime(runtime_ai100)
        outputs: dict[str, Any] = self._open(device_ids).generate(inputs, tokenizer=tokenizer)
        return outputs


def resolve_sequences(
    model: QEFFBaseModel[SequencePlan, EncoderCompileOptions], plan: SequencePlan, options: EncoderCompileOptions
) -> SequencePlan:
    """The plan for as many lengths as one graph can be for."""

    def next_plan(tried: SequencePlan, error: ExportError) -> SequencePlan:
        if not isinstance(error, SizeDependence):
            raise error
        return narrow(tried, options.seq_lens, error, model.model_name)

    return model.resolve_by_export(plan, {"seq_lens": options.seq_lens}, next_plan)


class _TextEncoders:
    """Loads what transformers has for the text of a checkpoint: a class made for encoding text where there is one
    that takes the checkpoint as it is, else what ``AutoModel`` gives."""

    @staticmethod
    def from_pretrained(folder: Any, **kwargs: Any) -> Any:
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

        config = AutoConfig.from_pretrained(folder, trust_remote_code=kwargs.get("trust_remote_code", False))
        if type(config) not in AutoModelForTextEncoding._model_mapping:
            return AutoModel.from_pretrained(folder, **kwargs)
        return AutoModelForTextEncoding.from_pretrained(folder, **kwargs)
