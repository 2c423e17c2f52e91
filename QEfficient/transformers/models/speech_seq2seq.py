"""The auto class of speech recognition models: an encoder reads audio, a decoder generates its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.base.open_package import check_runtime
from QEfficient.contract import Json, Specialization
from QEfficient.errors import CapacityError, UnsupportedModel
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.sessions.signals import SignalRecord
from QEfficient.generation.signal_prefix import FILE, TENSOR, PrefixRecord
from QEfficient.generation.speech_rules import SpeechOptions
from QEfficient.generation.tasks.speech_seq2seq import SpeechSeq2SeqRecord
from QEfficient.generation_options import CallArguments, GenerationOptions
from QEfficient.option_docs import lists_options
from QEfficient.option_types import SpeechArgs, SpeechSeq2SeqCompileArgs
from QEfficient.options import SpeechSeq2SeqCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.audio_model import QEFFAudioModel, places_of_seconds
from QEfficient.transformers.models.generative_model import Stream
from QEfficient.transformers.models.seq2seq_model import EncoderDecoderPlan, QEFFEncoderDecoderModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from QEfficient.generation.audio_inputs import AudioInputs
    from QEfficient.generation.feature_extractor import HFFeatureExtractor
    from QEfficient.generation.transcript import Transcript
    from QEfficient.transformers.models.image_text_to_text import QEFFAutoModelForImageTextToText
    from QEfficient.transformers.tasks.encoder_sources import EncoderSource
    from QEfficient.transformers.tasks.signals import SignalContract

_USUAL_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class SpeechPlan(EncoderDecoderPlan):
    """What decides the graphs of a speech recognition model."""

    contract: SignalContract
    """Of the encoder's input."""
    longest: int
    """Samples or features of the longest audio."""
    encoder_ctx_len: int
    """States of the encoder for it."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "contract": self.contract.ingredients()}


class QEFFAutoModelForSpeechSeq2Seq(
    QEFFAudioModel[SpeechPlan, SpeechSeq2SeqCompileOptions],
    QEFFEncoderDecoderModel[SpeechPlan, SpeechSeq2SeqCompileOptions],
):
    """A model that turns audio into text, token by token: Whisper, Moonshine, Speech2Text and others.

    Args:
        model: a Hugging Face speech sequence-to-sequence model, already loaded; :meth:`from_pretrained` loads one.
        tokenizer: used by :meth:`generate` and put into the package.
        feature_extractor: used where audio is passed, and put into the package.
    """

    task = "speech_seq2seq"
    options_class: ClassVar[type[SpeechSeq2SeqCompileOptions]] = SpeechSeq2SeqCompileOptions

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        feature_extractor: HFFeatureExtractor | None = None,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self.feature_extractor = feature_extractor
        self._contracts: dict[tuple[Any, ...], SignalContract] = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: PathLike, *, trust_remote_code: bool = False, **kwargs: Any
    ) -> QEFFAutoModelForSpeechSeq2Seq | QEFFAutoModelForImageTextToText:
        """Load a checkpoint.

        One with an audio tower before a language model becomes a :class:`QEFFAutoModelForImageTextToText`, whose
        prompts may have audio.

        Args:
            pretrained_model_name_or_path: as of :meth:`QEFFAutoModelForImageTextToText.from_pretrained`.
            trust_remote_code: see there.
            kwargs: see there.

        Raises:
            QEffError: see there.
        """
        from QEfficient.transformers.checkpoint import load as checkpoint
        from QEfficient.transformers.models.image_text_to_text import QEFFAutoModelForImageTextToText

        where = {name: value for name, value in kwargs.items() if name in checkpoint.LOAD_OPTIONS}
        checkpoint.check_options({**where, "trust_remote_code": trust_remote_code})
        folder = checkpoint.resolve(pretrained_model_name_or_path, **where)
        checkpoint.check_safe(folder, trust_remote_code)
        config = checkpoint.load_config(folder, trust_remote_code)
        heads = config.architectures or []
        is_tower = not cls.takes(config, heads) and QEFFAutoModelForImageTextToText.takes(config, heads)
        loader: Any = QEFFAutoModelForImageTextToText if is_tower else super()
        model: QEFFAutoModelForSpeechSeq2Seq | QEFFAutoModelForImageTextToText = loader.from_pretrained(
            pretrained_model_name_or_path, trust_remote_code=trust_remote_code, **kwargs
        )
        return model

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForSpeechSeq2Seq

        return AutoModelForSpeechSeq2Seq

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """An encoder that reads audio, and a decoder."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES as NAMES

        is_known = any(head in NAMES.values() for head in heads)
        return is_known and bool(getattr(config, "is_encoder_decoder", False))

    def _contract(self, longest: int) -> SignalContract:
        """How the encoder takes signals; measured once for each maximum length and each set of weights."""
        from QEfficient.transformers.tasks.encoder_sources import measure_encoder_of_signals

        model = self._loaded()
        key = (longest, *(id(parameter) for parameter in model.parameters()))
        if key not in self._contracts:
            self._contracts[key] = measure_encoder_of_signals(model, longest)
        return self._contracts[key]

    def _longest(self, encoder_ctx_len: int | None) -> int:
        """Samples or features of the longest audio, as far as options say it."""
        from QEfficient.transformers.tasks.encoder_sources import encoder_of, signal_rule

        if encoder_ctx_len is None:
            return places_of_seconds(self, encoder_of(self._loaded()).main_input_name, _USUAL_SECONDS)
        return signal_rule(self._loaded()).length(encoder_ctx_len + 1) - 1

    def _check_lens(self, options: SpeechSeq2SeqCompileOptions) -> None:
        limit = self.max_lens().get("ctx_len")
        if limit is not None and options.ctx_len > limit:
            raise CapacityError(
                f"ctx_len={options.ctx_len} is beyond the {limit} positions that {self.model_name} was made for. "
                f"Give ctx_len={limit} or less."
            )

    def _plan(self, options: SpeechSeq2SeqCompileOptions, target: Target) -> SpeechPlan:
        contract = self._contract(self._longest(options.encoder_ctx_len))
        longest = contract.only_len or self._longest(options.encoder_ctx_len)
        num_states = contract.rule.num_frames(longest)
        if options.encoder_ctx_len not in (None, num_states):
            raise CapacityError(
                f"encoder_ctx_len={options.encoder_ctx_len}: {self.model_name} reads audio of one length alone, which "
                f"makes {num_states} states. Leave it out."
            )
        return SpeechPlan(
            **self._plan_ingredients(options, target), contract=contract, longest=longest, encoder_ctx_len=num_states
        )

    def _encoder_source(self, plan: SpeechPlan) -> EncoderSource:
        from QEfficient.transformers.tasks.encoder_sources import SignalSource

        return SignalSource(plan.contract, plan.longest, plan.is_split and plan.contract.only_len is not None)

    def _specializations(
        self, plan: SpeechPlan, options: SpeechSeq2SeqCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        lens = (plan.longest, plan.contract.rule.length(1))
        return self._shapes(plan, options, plan.encoder_ctx_len, axis="feature_len", source_lens=lens)

    def _session(self, plan: SpeechPlan, options: SpeechSeq2SeqCompileOptions, target: Target) -> SpeechSeq2SeqRecord:
        contract: Any = plan.contract
        signals = SignalRecord(
            input=contract.input,
            width=contract.width,
            seq_lens=(plan.longest,),
            batch_size=1,
            min_len=contract.rule.length(2),
            rule=contract.rule,
            padding_side=contract.padding.side,
            why_not_padded=contract.padding.reason,
            is_time_last=contract.is_time_last,
            is_whole=contract.only_len is not None,
        )
        return SpeechSeq2SeqRecord(
            decoder=self._decoder_record(plan, options),
            signals=signals,
            encoder_ctx_len=plan.encoder_ctx_len,
            decoder_start_token_id=self._decoder_start(),
            hidden_size=self._encoder_width(),
            prefix=self._prefix(),
        )

    def _prefix(self) -> PrefixRecord | None:
        """What generation may put before the features of audio.

        Raises:
            UnsupportedModel: the checkpoint's generation config does not name the rows.
        """
        from QEfficient.transformers.quirks import prefix_table

        table = prefix_table(self._loaded())
        if table is None:
            return None
        tokens = getattr(self._loaded().generation_config, table.names, None)
        if not isinstance(tokens, dict) or table.default not in tokens:
            raise UnsupportedModel(
                f"{self.model_name} puts a row for its {table.option} before audio, and its generation config does not "
                f"say whose: it needs {table.names}, with {table.default!r} in it."
            )
        first = min(tokens.values())
        rows = {name: token - first for name, token in tokens.items()}
        return PrefixRecord(option=table.option, rows=rows, default=table.default)

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        from safetensors.torch import save_file

        from QEfficient.transformers.checkpoint.source import weight_value
        from QEfficient.transformers.quirks import prefix_table

        table = prefix_table(self._loaded())
        if table is not None:
            rows = weight_value(self._weights(), self._loaded().get_parameter(table.weight))
            save_file({TENSOR: rows.float().contiguous()}, folder / FILE)

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[SpeechSeq2SeqCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def generate(
        self,
        inputs: AudioInputs,
        generation_len: int | Sequence[int] | None = None,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        stream: Stream = False,
        **options: Unpack[SpeechArgs],
    ) -> CloudAI100ExecInfo:
        """Answer audio with the compiled package.

        Args:
            inputs: a file, samples at :attr:`sampling_rate`, a list of these, or a processor's output.
            generation_len: most new tokens, for all audio or one number each; default: the checkpoint's
                ``max_new_tokens``, else what fits ``ctx_len``.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            feature_extractor: default: the model's.
            tokenizer: default: the model's.
            stream: True prints the text as it comes; a function is called with each piece.
            options: see :class:`SpeechOptions` and :class:`GenerationOptions`, each one value or one for each audio;
                and :class:`CallArguments`.

        Returns:
            Texts and ids in the order of the audio, and how fast it was. Where the model was asked for the language,
            the ids begin with its token and those that follow it.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: audio is empty or longer than the model was compiled for: see :meth:`transcribe`.
            OptionError: it is not audio, or an unknown or impossible option.
        """
        check_runtime(runtime_ai100)
        answers: CloudAI100ExecInfo = self._open(device_ids).generate(
            inputs,
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            stream=stream,
            feature_extractor=self.chosen_extractor(feature_extractor),
            **options,
        )
        return answers

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def stream(
        self,
        prompt: AudioInputs,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[SpeechArgs],
    ) -> Iterator[str]:
        """Yield the answer to one audio as text, as it comes. Arguments and errors as of :meth:`generate`.

        Args:
            prompt: one audio.
            feature_extractor: default: the model's.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.
        """
        extractor = self.chosen_extractor(feature_extractor)
        asked = {**options, "generation_len": generation_len, "feature_extractor": extractor}
        return self._stream(prompt, tokenizer, asked)

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def transcribe(
        self,
        inputs: AudioInputs,
        device_ids: Sequence[int] | None = None,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[SpeechArgs],
    ) -> list[Transcript]:
        """The text of each audio, with its segments; audio of any length, where the model has timestamps.

        Args:
            inputs: a file, samples at :attr:`sampling_rate`, or a list of these.
            device_ids: as of :meth:`generate`.
            feature_extractor: default: the model's.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens of each window.
            options: see :meth:`generate`.

        Raises:
            LifecycleError: nothing was compiled yet, or there is no tokenizer.
            CapacityError: audio is empty, or too long.
            OptionError: it is not audio, or an unknown or impossible option.
        """
        transcripts: list[Transcript] = self._open(device_ids).transcribe(
            inputs,
            feature_extractor=self.chosen_extractor(feature_extractor),
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            **options,
        )
        return transcripts
