"""What the auto classes share whose models read whole sequences in one run: encoders and classifiers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel
from QEfficient.base.open_package import check_runtime
from QEfficient.contract import Specialization
from QEfficient.errors import ExportError, SizeDependence
from QEfficient.option_types import EncoderCompileArgs
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.sequence_plan import (
    MeasuredInputs,
    SequencePlan,
    narrow,
    plan_sequences,
    specializations,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_inputs import SequenceContract, SequenceModel


class QEFFWholeInputModel(QEFFBaseModel[SequencePlan, EncoderCompileOptions]):
    """A model that reads a whole text or signal in one run and keeps nothing of it."""

    options_class: ClassVar[type[EncoderCompileOptions]] = EncoderCompileOptions
    specialization_name: ClassVar[str]
    """Upstream's, of each length's shape."""

    def _resolve(self, plan: SequencePlan, options: EncoderCompileOptions) -> SequencePlan:
        """The plan for as many lengths as one graph can be for."""

        def next_plan(tried: SequencePlan, error: ExportError) -> SequencePlan:
            if not isinstance(error, SizeDependence):
                raise error
            return narrow(tried, options.seq_lens, error, self.model_name)

        return self.resolve_by_export(plan, {"seq_lens": options.seq_lens}, next_plan)

    def _specializations(
        self, plan: SequencePlan, options: EncoderCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        return specializations(self.specialization_name, options)

    def choose_lowering(self, target: Target) -> LoweringChoice:
        from QEfficient.transformers.lowering.select import LoweringChoice

        return LoweringChoice("encoder")


class QEFFSequenceModel(QEFFWholeInputModel):
    """A model that reads a whole text in one run."""

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self._inputs = MeasuredInputs(self._prepare)

    @abstractmethod
    def _prepare(self, model: PreTrainedModel, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
        """``model`` ready to be lowered, and how it takes sequences."""

    @cached_property
    def _reader(self) -> Any:
        """The module that reads texts: the model, or its tower for them."""
        from QEfficient.transformers.tasks.two_towers import text_reader

        return text_reader(self._loaded())

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        reader = self._reader
        contract = self._inputs.contract(reader, options.seq_lens[-1], self.tokenizer)
        return plan_sequences(reader, contract, options, target, self.max_lens().get("seq_len"))

    @staticmethod
    def _text_contract(plan: SequencePlan) -> SequenceContract:
        """How the model takes texts, by its plan."""
        contract: Any = plan.contract
        text: SequenceContract = contract
        return text

    def max_lens(self) -> dict[str, int]:
        from QEfficient.transformers.tasks.position_limits import max_seq_len

        limit = max_seq_len(self._reader)
        return {} if limit is None else {"seq_len": limit}

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[EncoderCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)

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
            tokenizer: default: the model's.

        Returns:
            The output by its name, a float32 array with a row for each text: see the class.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the longest compiled ``seq_len``.
        """
        check_runtime(runtime_ai100)
        outputs: dict[str, Any] = self._open(device_ids).generate(inputs, tokenizer=self._text_tokenizer(tokenizer))
        return outputs
