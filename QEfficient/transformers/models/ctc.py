"""The auto class of CTC models: audio to text, a token or none for each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.base.open_package import check_runtime
from QEfficient.contract import MODEL_GRAPH, Specialization
from QEfficient.generation.sessions.signals import SignalRecord
from QEfficient.generation.tasks.ctc import CTCRecord
from QEfficient.option_types import CTCCompileArgs
from QEfficient.options import CTCCompileOptions, EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.audio_model import QEFFAudioModel, places_of_seconds
from QEfficient.transformers.models.sequence_model import QEFFWholeInputModel
from QEfficient.transformers.models.sequence_plan import SequencePlan, plan_sequences

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from QEfficient.generation.audio_inputs import AudioInputs
    from QEfficient.generation.feature_extractor import HFFeatureExtractor
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.signals import SignalContract

_USUAL_SECONDS = 30
_MIN_FRAMES = 4
"""Of the shortest signal of a graph: code that looks at neighbours of a frame has some."""


@dataclass
class _Measured:
    """How the model takes signals, measured once for each maximum length and each set of weights."""

    contracts: dict[tuple[Any, ...], SignalContract] = field(default_factory=dict)
    modules: dict[SignalContract, nn.Module] = field(default_factory=dict)


class QEFFAutoModelForCTC(QEFFAudioModel[SequencePlan, EncoderCompileOptions], QEFFWholeInputModel):
    """A model that turns audio into text in one run: Wav2Vec2, HuBERT, Parakeet and others with a CTC head.

    Args:
        model: a Hugging Face CTC model, already loaded; :meth:`from_pretrained` loads one.
        tokenizer: used by :meth:`transcribe` and put into the package.
        feature_extractor: used where audio is passed, and put into the package.
    """

    task = "ctc"
    specialization_name = "CTC"
    options_class: ClassVar[type[EncoderCompileOptions]] = CTCCompileOptions

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        feature_extractor: HFFeatureExtractor | None = None,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self.feature_extractor = feature_extractor
        self._measured = _Measured()

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForCTC

        return AutoModelForCTC

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        return any(head.endswith("ForCTC") for head in heads)

    def _parse(self, passed: Mapping[str, Any]) -> tuple[EncoderCompileOptions, Target]:
        """Of a model that takes features, ``seq_len`` is by default the frames that 30 seconds are."""
        if "seq_len" not in passed and self._loaded().main_input_name != "input_values":
            passed = {**passed, "seq_len": places_of_seconds(self, self._loaded().main_input_name, _USUAL_SECONDS)}
        return super()._parse(passed)

    def _contract(self, longest: int) -> SignalContract:
        from QEfficient.transformers.tasks.ctc import prepare_ctc

        measured, model = self._measured, self._loaded()
        key = (longest, *(id(parameter) for parameter in model.parameters()))
        if key not in measured.contracts:
            module, contract = prepare_ctc(model, longest)
            measured.contracts[key] = contract
            measured.modules[contract] = module
        return measured.contracts[key]

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        contract = self._contract(options.seq_lens[-1])
        shortest = contract.rule.length(_MIN_FRAMES)
        return plan_sequences(self._loaded(), contract, options, target, None, shortest)

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.ctc import ctc_graph

        contract: Any = plan.contract
        return {MODEL_GRAPH: ctc_graph(self._measured.modules[contract], contract, plan.graph_lens)}

    def _specializations(
        self, plan: SequencePlan, options: EncoderCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        contract: Any = plan.contract
        shapes = (
            {"batch_size": options.batch_size, "seq_len": length, "num_frames": contract.rule.num_frames(length)}
            for length in options.seq_lens
        )
        return {MODEL_GRAPH: tuple(Specialization(name=self.specialization_name, symbols=each) for each in shapes)}

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> CTCRecord:
        contract: Any = plan.contract
        signals = SignalRecord(
            input=contract.input,
            width=contract.width,
            seq_lens=options.seq_lens,
            batch_size=options.batch_size,
            min_len=plan.min_len,
            rule=contract.rule,
            padding_side=contract.padding.side,
            why_not_padded=contract.padding.reason,
        )
        return CTCRecord(
            signals=signals,
            vocab_size=self.config.vocab_size,
            blank_token_id=self._blank_token_id(),
            graph_min_len=plan.seq_len or 1,
            graph_max_len=plan.seq_len or plan.max_len,
        )

    def _blank_token_id(self) -> int:
        """The padding token, as transformers has it."""
        tokens = (getattr(self.tokenizer, "pad_token_id", None), self.config.pad_token_id)
        return next((token for token in tokens if isinstance(token, int) and token >= 0), 0)

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[CTCCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)

    def generate(
        self,
        inputs: AudioInputs | Any,
        audio: AudioInputs | None = None,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
    ) -> Any:
        """Run audio through the compiled package.

        Args:
            inputs: a file, samples at :attr:`sampling_rate`, a list of these, or a processor's output.
            audio: upstream's form: ``generate(processor, audio)`` returns the texts.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            feature_extractor: default: the model's.

        Returns:
            ``logits``, float32 ``[n, frames, vocab]``, and ``num_frames [n]``: frames after those of shorter audio are
            zeros. In upstream's form, the texts.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: audio is empty or longer than the longest compiled ``seq_len``.
            OptionError: it is not audio, or of another rate than the model's.
        """
        check_runtime(runtime_ai100)
        if audio is not None:
            extractor, tokenizer = (getattr(inputs, part, None) for part in ("feature_extractor", "tokenizer"))
            return self.transcribe(audio, device_ids, feature_extractor=extractor, tokenizer=tokenizer)
        return self._open(device_ids).generate(inputs, feature_extractor=self.chosen_extractor(feature_extractor))

    def transcribe(
        self,
        inputs: AudioInputs,
        device_ids: Sequence[int] | None = None,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[str]:
        """The text of each audio, by the likeliest token of each frame. Arguments and errors as of :meth:`generate`.

        Args:
            inputs: as of :meth:`generate`.
            device_ids: as of :meth:`generate`.
            feature_extractor: default: the model's.
            tokenizer: default: the model's.

        Raises:
            LifecycleError: nothing was compiled yet, or there is no tokenizer.
        """
        texts: list[str] = self._open(device_ids).transcribe(
            inputs,
            feature_extractor=self.chosen_extractor(feature_extractor),
            tokenizer=self._text_tokenizer(tokenizer),
        )
        return texts
