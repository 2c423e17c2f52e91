"""Runs the packages of speech recognition models: an encoder reads audio, a decoder generates its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from QEfficient.contract import Binding, GraphRecord
from QEfficient.errors import OptionError
from QEfficient.generation.audio import load_audio, load_heard_audio
from QEfficient.generation.audio_inputs import AudioInputs, each_audio, read_signals
from QEfficient.generation.call_options import CallOptions
from QEfficient.generation.feature_extractor import FOLDER, FeatureExtractor, HFFeatureExtractor, open_feature_extractor
from QEfficient.generation.logits.forbidden import Forced
from QEfficient.generation.logits.processor import AnswerRule
from QEfficient.generation.long_audio import MAX_SECONDS, Windows, segments_of
from QEfficient.generation.prompts import Prompts
from QEfficient.generation.request import Request
from QEfficient.generation.request_builder import checked_generation_len, for_each, options_of_each
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.sessions.readers import SignalReader
from QEfficient.generation.sessions.seq2seq import HIDDEN, Seq2SeqSession
from QEfficient.generation.sessions.signals import SignalRecord
from QEfficient.generation.signal_prefix import PrefixRecord, SignalPrefix
from QEfficient.generation.speech_rules import SpeechOptions, SpeechPrompt, SpeechRules
from QEfficient.generation.tasks.seq2seq_lm import ENCODER, CompiledEncoderDecoder, EncoderDecoderRecord
from QEfficient.generation.tokenizer import ForeignTokenizer, PackageTokenizer
from QEfficient.generation.transcript import Segment, Transcript
from QEfficient.generation_options import CallArguments, GenerationOptions
from QEfficient.option_docs import lists_options
from QEfficient.option_types import SpeechArgs
from QEfficient.options import SpeechSeq2SeqCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOTHING = Binding(dtype="", shape=())
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_ASKED = tuple(item.name for item in fields(SpeechOptions))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechSeq2SeqRecord(EncoderDecoderRecord):
    """The values that the session of a speech recognition model needs."""

    signals: SignalRecord
    prefix: PrefixRecord | None = None
    """What comes before the features of audio."""


class CompiledSpeechSeq2Seq(CompiledEncoderDecoder[SpeechSeq2SeqRecord]):
    """A speech recognition model."""

    task = "speech_seq2seq"
    takes_chat = False
    more_arguments = (*_ASKED, "feature_extractor", "device_ids")
    entries_of_task = _SUPPRESSED
    record_class = SpeechSeq2SeqRecord
    options_class = SpeechSeq2SeqCompileOptions

    def _check_result(self, graph: GraphRecord) -> None:
        if self.output not in graph.outputs or len(graph.inputs.get("input_ids", _NOTHING).shape) != 2:
            raise self._not_ours(f"its graph has no input_ids [batch, length] or no {self.output}")
        if ENCODER in self.body.graphs and HIDDEN not in self.body.graphs[ENCODER].outputs:
            raise self._not_ours(f"its encoder gives no {HIDDEN}")

    def resized(
        self,
        record: SpeechSeq2SeqRecord,
        *,
        ctx_len: int | None = None,
        full_batch_size: int | None = None,
        **sizes: object,
    ) -> SpeechSeq2SeqRecord:
        super().resized(record, **sizes)
        return replace(record, decoder=record.decoder.resized(ctx_len, full_batch_size))

    def _open_session(self) -> Seq2SeqSession:
        record = self.record
        self.rules = self._speech_rules(self.generation_config)
        return self._open_encoder_decoder(SignalReader(record.signals))

    def _speech_rules(self, config: Mapping[str, Any]) -> SpeechRules:
        where = str(self.artifact.file("generation_config.json"))
        start, size = self.record.decoder_start_token_id, self.record.decoder.vocab_size
        return SpeechRules(config, start, size, where)

    @cached_property
    def _package_extractor(self) -> FeatureExtractor:
        return open_feature_extractor(self.path / FOLDER)

    def feature_extractor(self, extractor: HFFeatureExtractor | None = None) -> FeatureExtractor:
        """The package's feature extractor, or ``extractor`` with the same methods."""
        return self._package_extractor if extractor is None else FeatureExtractor(extractor)

    def _requests(
        self,
        prompts: Any,
        tokenizer: PreTrainedTokenizerBase | None,
        generation_len: object,
        sampling: Mapping[str, Any],
    ) -> tuple[list[Request], Any | None]:
        options = dict(sampling)
        extractor = options.pop("feature_extractor", None)
        signals = read_signals(prompts, self.record.signals, lambda: self.feature_extractor(extractor))
        asked = options_of_each({name: options.pop(name, None) for name in _ASKED}, len(signals))
        lengths, each = for_each("generation_len", generation_len, len(signals)), options_of_each(options, len(signals))
        requests = [
            self.request(index, signal, SpeechOptions(**asked[index]), lengths[index], each[index])
            for index, signal in enumerate(signals)
        ]
        return requests, self._decoder(tokenizer)

    def request(
        self,
        index: int,
        signal: np.ndarray,
        options: SpeechOptions,
        generation_len: int | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> Request:
        """What the engine runs for one audio: see :meth:`generate`."""
        return self._asked(index, signal, options, self.rules.prompt(options), generation_len, sampling or {})

    def _asked(
        self,
        index: int,
        signal: np.ndarray,
        options: SpeechOptions,
        prompt: SpeechPrompt,
        generation_len: object,
        sampling: Mapping[str, Any],
    ) -> Request:
        signal = self._prefixed(signal, options)
        self.session.check(signal, index)
        length: int | None = None
        if generation_len is not None:
            length = checked_generation_len(generation_len) + prompt.num_answered
        inputs: dict[str, np.ndarray] = {self.record.signals.input: np.ascontiguousarray(signal)}
        rest = {name: value for name, value in sampling.items() if name not in _SUPPRESSED}
        request = self._builder.build(prompt.ids, length, rest, inputs)
        rules = [AnswerRule(rule) for rule in self._rules(sampling).rules(prompt, options)]
        forced = Forced(tuple((1 + place, (token,)) for place, token in enumerate(prompt.after_language)))
        return replace(request, rules=(*rules, forced) if forced.places else (*rules,))

    def _rules(self, sampling: Mapping[str, Any]) -> SpeechRules:
        """The checkpoint's rules; tokens that the caller suppresses replace those of the checkpoint."""
        changed = {name: sampling[name] for name in _SUPPRESSED if sampling.get(name) is not None}
        if not changed:
            return self.rules
        parsed, size = GenerationOptions.parse(changed), self.record.decoder.vocab_size
        ids = {name: [token for token in getattr(parsed, name) if 0 <= token < size] for name in changed}
        return self._speech_rules({**self.generation_config, **ids})

    @cached_property
    def _prefix(self) -> SignalPrefix | None:
        return None if self.record.prefix is None else SignalPrefix(self.record.prefix, self.path)

    def _prefixed(self, signal: np.ndarray, options: SpeechOptions) -> np.ndarray:
        """``signal`` after what the model wants before it."""
        if self._prefix is None:
            if options.composer is not None:
                raise OptionError("composer is for models that write notes; this one has none: leave it out.")
            return signal
        return self._prefix.before(signal, options.composer)

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def generate(  # type: ignore[override]
        self,
        prompts: AudioInputs,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: bool | Callable[[str], None] = False,
        **options: Unpack[SpeechArgs],
    ) -> CloudAI100ExecInfo:
        """Answer audio that fits into one run of the encoder.

        Args:
            prompts: a file, samples, a list of these, or a processor's output.
            feature_extractor: one of transformers; default: the one in the package.
            tokenizer: as of :meth:`CompiledDecoder.generate`, with ``generation_len`` and ``stream``.
            generation_len: see there.
            stream: see there.
            options: see :class:`SpeechOptions`, :class:`GenerationOptions` and :class:`CallArguments`.

        Raises:
            CapacityError: audio is empty, or longer than the model was compiled for.
            OptionError: it is not audio, or an option is unknown or impossible.
        """
        asked: Any = {**options, "feature_extractor": feature_extractor}
        return super().generate(
            cast("Prompts", prompts), tokenizer=tokenizer, generation_len=generation_len, stream=stream, **asked
        )

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def stream(  # type: ignore[override]
        self,
        prompt: AudioInputs,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[SpeechArgs],
    ) -> Iterator[str]:
        """Yield the answer to one audio as text, while it is generated. Arguments and errors as of :meth:`generate`.

        Args:
            prompt: one audio.
            feature_extractor: as of :meth:`generate`.
            tokenizer: as of :meth:`generate`.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.
        """
        asked: Any = {**options, "feature_extractor": feature_extractor}
        return super().stream(cast("Prompts", prompt), tokenizer=tokenizer, generation_len=generation_len, **asked)

    @lists_options(SpeechOptions, GenerationOptions, CallArguments)
    def transcribe(
        self,
        inputs: AudioInputs,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[SpeechArgs],
    ) -> list[Transcript]:
        """The text of each audio, of any length where the model has timestamps, with its segments.

        Args:
            inputs: a file, samples, or a list of these.
            feature_extractor: one of transformers; default: the one in the package.
            tokenizer: as of :meth:`generate`.
            generation_len: maximum number of new tokens of a window.
            options: see :class:`SpeechOptions`, :class:`GenerationOptions` and :class:`CallArguments`.

        Raises:
            CapacityError: audio is empty, or too long for a model without timestamps.
            OptionError: it is not audio, or an option is unknown or impossible.
        """
        passed: dict[str, Any] = dict(options)
        asked = SpeechOptions(**{name: passed.pop(name, None) for name in _ASKED})
        call = CallOptions.read(generation_len, passed)
        if call.streamer is not None or call.num_answers > 1:
            raise OptionError("streamer and num_return_sequences are for generate(): a transcript is one text.")
        extractor, decoder = self.feature_extractor(feature_extractor), self.tokenizer(tokenizer)
        longest = MAX_SECONDS * extractor.sampling_rate
        if self.record.signals.width is None:
            longest = min(longest, self.record.signals.seq_lens[-1])
        transcripts = []
        for index, each in enumerate(each_audio(inputs)):
            load = load_heard_audio if self.record.signals.is_whole else load_audio
            samples = load(each, extractor.sampling_rate, longest, f"Audio {index}")
            answers = self._answers(samples, extractor, asked, call, decoder)
            transcripts.append(Transcript.of(*answers, decoder, self.rules.first_timestamp))
        return transcripts

    def _answers(
        self,
        samples: np.ndarray,
        extractor: FeatureExtractor,
        options: SpeechOptions,
        call: CallOptions,
        decoder: PackageTokenizer | ForeignTokenizer,
    ) -> tuple[list[Segment], str | None]:
        """The segments of audio, and the language that it is in, as far as that is known."""
        window = extractor.max_len if self.record.signals.is_whole else None
        is_long = window is not None and len(samples) > window
        if is_long and options.return_timestamps is None and self.rules.first_timestamp is not None:
            options = replace(options, return_timestamps=True)
        prompt = self.rules.prompt(options)

        def answer(signal: np.ndarray, prompt: SpeechPrompt) -> tuple[list[int], list[int]]:
            request = self._asked(0, signal, options, prompt, call.generation_len, call.for_prompts)
            (request,) = call.applied([request], decoder.token_bytes)
            return self._answer(request, prompt.num_answered)

        if self.rules.takes_timestamps(options) and window is not None:
            windows = self._windows(samples, extractor, window)
            segments: list[Segment] = []
            while not windows.is_done:
                begin, ids = answer(windows.signal(), prompt)
                # The language of the first window is that of the others.
                prompt = SpeechPrompt(ids=[*prompt.ids, *begin])
                more, step = segments_of(ids, windows, self.rules.first_timestamp or 0)
                segments += more
                windows = windows.after(step or windows.num_places)
        else:
            (signal,) = read_signals([samples], self.record.signals, lambda: extractor)
            begin, ids = answer(signal, prompt)
            prompt = SpeechPrompt(ids=[*prompt.ids, *begin])
            segments = [Segment(start=0.0, end=len(samples) / extractor.sampling_rate, token_ids=ids)]
        return segments, self.rules.language_of(prompt)

    def _windows(self, samples: np.ndarray, extractor: FeatureExtractor, window: int) -> Windows:
        signals = self.record.signals
        features = extractor.features(samples, signals.input, True, truncation=False, padding="longest")
        if features.shape[-1] < signals.seq_lens[-1]:
            features = extractor.features(samples, signals.input, True)
        seconds = window / extractor.sampling_rate
        return Windows(
            features=features, length=signals.seq_lens[-1], states=self.record.encoder_ctx_len, seconds=seconds
        )

    def _answer(self, request: Request, num_begin: int) -> tuple[list[int], list[int]]:
        """The tokens of an answer that are still its beginning, and those after them, without an end token."""
        ids = [token.token_id for token in self.engine.run([request])]
        if ids and ids[-1] in request.eos_token_ids:
            ids = ids[:-1]
        return ids[:num_begin], ids[num_begin:]

    def describe(
        self, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        texts = [transcript.text for transcript in self.transcribe(list(prompts), tokenizer=tokenizer)]
        rows = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        return rows, "\n".join(f"> {prompt}\n{text}" for prompt, text in zip(prompts, texts, strict=True))
