"""Runs the packages of models that see: images become features, which a language model reads at their placeholders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np

from QEfficient.contract import NO_TOKEN, GraphRecord, LoweringName
from QEfficient.errors import LifecycleError, OptionError, nearest
from QEfficient.generation.added_media import heard, prompts_over_rows, within_audio
from QEfficient.generation.audio_inputs import AudioInputs, each_audio
from QEfficient.generation.cross_media import CrossLayout, CrossPacker
from QEfficient.generation.media import MediaLayout, MediaPacker, PromptMedia, spans_of
from QEfficient.generation.media_encoder import FeatureCache, Features, MediaEncoder, MediaEncoderRecord
from QEfficient.generation.media_prompts import Clips, Pictured, open_audio, with_media
from QEfficient.generation.programs.program import Program
from QEfficient.generation.prompts import Prompts
from QEfficient.generation.request import Request
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.sessions.retained import RetainedSession
from QEfficient.generation.sessions.session import Session, SessionInfo
from QEfficient.generation.tasks.causal_lm import CompiledDecoder, DecoderRecord
from QEfficient.generation.transcript import Segment, Transcript
from QEfficient.generation_options import CallArguments, GenerationOptions, StreamArguments
from QEfficient.option_docs import lists_options
from QEfficient.option_types import GenerateArgs, StreamArgs
from QEfficient.options import CompileOptions, ImageTextToTextCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from QEfficient.processing.host import HostModel
    from QEfficient.processing.images import Picture

_LENS = ("max_new_tokens", "max_length")
"""Other names of how long an answer is."""
LANGUAGE = "language"
"""Name of the language model's graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTextRecord:
    """The values that the sessions of a model that sees need."""

    decoder: DecoderRecord
    layout: MediaLayout
    encoders: tuple[MediaEncoderRecord, ...]
    crossing: CrossLayout | None = None
    """Of images that cross-attention layers see, and that take no tokens' place."""

    @property
    def sizes(self) -> dict[str, int]:
        """Of the state's named axes."""
        return self.decoder.sizes

    @property
    def ctx_len(self) -> int:
        """Maximum tokens of a prompt and its answer."""
        return self.decoder.ctx_len

    @property
    def vocab_size(self) -> int:
        """Tokens that an answer may have."""
        return self.decoder.vocab_size


@dataclass(frozen=True, eq=False)
class MediaPrompt:
    """A prompt as the engine takes it."""

    ids: list[int]
    media: PromptMedia


class CompiledImageTextToText(CompiledDecoder[ImageTextRecord]):
    """A model that answers prompts with images."""

    task = "image_text_to_text"
    lowerings: ClassVar[tuple[LoweringName, ...]] = ("paged", "retained")
    record_class: ClassVar[type[ImageTextRecord]] = ImageTextRecord
    options_class: ClassVar[type[CompileOptions]] = ImageTextToTextCompileOptions
    takes_images = True
    more_arguments = ("images", "audio", "processor", "inputs", "device_ids")

    def _has_known_graphs(self) -> bool:
        return LANGUAGE in self.body.graphs

    @property
    def _result_graph(self) -> GraphRecord:
        return self.body.graphs[LANGUAGE]

    def resized(
        self,
        record: ImageTextRecord,
        *,
        ctx_len: int | None = None,
        full_batch_size: int | None = None,
        **sizes: object,
    ) -> ImageTextRecord:
        super().resized(record, **sizes)
        return replace(record, decoder=record.decoder.resized(ctx_len, full_batch_size))

    @property
    def _vocab_size(self) -> int:
        return self.record.decoder.vocab_size

    def _load(self) -> None:
        cache = FeatureCache()
        names = {part.graph for record in self.record.encoders for part in record.parts}
        if missing := names - self.body.graphs.keys():
            raise self._not_ours(f"it has no graph {sorted(missing)[0]!r}")
        with ExitStack() as opened:
            programs = {name: opened.enter_context(closing(self.open_program(name))) for name in sorted(names)}
            super()._load()
            opened.pop_all()
        self._programs: dict[str, Program] = programs
        self.encoders = [MediaEncoder(record, programs, lambda: self._host, cache) for record in self.record.encoders]

    def _open_session(self, extra_outputs: Sequence[str] = ()) -> Session:
        record, is_ragged = self.record, self.body.lowering == "paged"
        self._check_width("logits", record.decoder.vocab_size, "vocab_size")
        info = replace(
            record.decoder.session_info(is_ragged=is_ragged),
            takes_long_chunks=not self.target.has_static_shapes,
            other_tokens=frozenset([*record.layout.placeholders.values(), *self._first_tokens()]),
        )
        if is_ragged:
            return self._paged(info, MediaPacker(record.layout), extra_outputs)
        packer = MediaPacker(record.layout) if record.crossing is None else CrossPacker(record.crossing)
        with ExitStack() as opened:
            program = self.open_program(LANGUAGE, record.sizes, extra_outputs)
            opened.enter_context(closing(program))
            session = RetainedSession(program, info, record.decoder.state_rows, packer)
            opened.pop_all()  # the session closes it
        return session

    def _first_tokens(self) -> list[int]:
        """What prompts that are audio alone begin with, which may be beyond the vocabulary of answers."""
        token = self.generation_config.get("bos_token_id")
        return [token] if self.record.layout.is_added and isinstance(token, int) else []

    def _paged(self, info: SessionInfo, packer: MediaPacker, extra_outputs: Sequence[str]) -> Session:
        from QEfficient.generation.sessions.paged import PagedSession  # imports OpenVINO

        opening = self.opening(extra_outputs=extra_outputs)
        return PagedSession(self.path, self.body.graphs[LANGUAGE], opening, info, packer)

    def close(self) -> None:
        super().close()
        for program in self._programs.values():
            program.close()

    @cached_property
    def _host(self) -> HostModel:
        from QEfficient.processing.host import HostModel
        from QEfficient.processing.processor import FOLDER

        return HostModel(self.path / FOLDER)

    @cached_property
    def processor(self) -> ProcessorMixin:
        """The package's processor.

        Raises:
            LifecycleError: it has none.
        """
        from QEfficient.processing.processor import FOLDER, has_processor, open_processor

        folder = self.path / FOLDER
        if not has_processor(folder):
            raise LifecycleError(f"{self.path} has no processor: pass processor=..., or what it makes of the prompt.")
        return open_processor(folder)

    @lists_options(GenerationOptions, CallArguments)
    def generate(
        self,
        prompts: Prompts,
        *,
        images: Sequence[Picture] | None = None,
        audio: Clips | None = None,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: bool | Callable[[str], None] = False,
        **options: Unpack[GenerateArgs],
    ) -> CloudAI100ExecInfo:
        """Generate from prompts with images.

        Args:
            prompts: a processor's output, or prompts as of :meth:`CompiledDecoder.generate`.
            images: of one prompt, or a list of images for each: paths, bytes, arrays, or images of Pillow.
            audio: of one prompt, or a list for each: files, or samples at the model's rate.
            processor: of transformers; default: the one in the package.
            tokenizer: default: the package's.
            generation_len: as of :meth:`CompiledDecoder.generate`, with ``stream``.
            stream: see there.
            options: see there.

        Raises:
            CapacityError: a prompt does not fit ``ctx_len``, or an image has a size that was not compiled.
            OptionError: something is not an image or audio, or they differ from the placeholders in number.
        """
        return super().generate(
            with_media(prompts, images, audio, processor),
            tokenizer=tokenizer,
            generation_len=generation_len,
            stream=stream,
            **options,
        )

    def transcribe(
        self,
        inputs: AudioInputs,
        *,
        prompt: str | None = None,
        language: str | None = None,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
    ) -> list[Transcript]:
        """The text of each audio, as long as it fits into ``ctx_len``.

        Args:
            inputs: a file, samples at the model's rate, or a list of these.
            prompt: what to do with the audio; default: the request for a transcription that the processor has.
            language: of the audio, where the processor's request takes one; else the model says it.
            processor: of transformers; default: the one in the package.
            tokenizer: as of :meth:`generate`.
            generation_len: maximum number of new tokens of an audio.

        Raises:
            CapacityError: audio is empty, or too long for ``ctx_len``.
            OptionError: it is not audio, or the processor has no request for a transcription.
        """
        from QEfficient.processing.processor import process, sampling_rate, transcription

        if prompt is not None and language is not None:
            raise OptionError("language is for the request of the processor: say it in the prompt.")
        if self.record.layout.is_added and language is not None:
            raise OptionError("The model hears the language itself: leave language out.")
        reader, decoder = processor or self.processor, self.tokenizer(tokenizer)
        transcripts = []
        for samples in open_audio(each_audio(inputs), reader):
            if self.record.layout.is_added:
                batch = heard(reader, prompt, [samples])
            elif prompt is not None:
                batch = process(reader, prompt, (), [samples])
            else:
                batch = transcription(reader, samples, language)
            answer = self.generate(batch, tokenizer=tokenizer, generation_len=generation_len, do_sample=False)
            seconds = len(samples) / (sampling_rate(reader) or 1)
            segment = Segment(start=0.0, end=seconds, token_ids=answer.generated_ids[0].tolist())
            transcripts.append(Transcript.of([segment], language, decoder, None))
        return transcripts

    @lists_options(GenerationOptions, StreamArguments)
    def stream(
        self,
        prompt: Prompts,
        *,
        images: Sequence[Picture] | None = None,
        audio: Clips | None = None,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[StreamArgs],
    ) -> Iterator[str]:
        """Yield the output for one prompt with its media, as :meth:`CompiledDecoder.stream`.

        Args:
            prompt: as of :meth:`generate`, a single one.
            images: of the prompt.
            audio: of the prompt.
            processor: as of :meth:`generate`.
            tokenizer: as of :meth:`generate`.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.
        """
        pictured = with_media(prompt, images, audio, processor)
        return super().stream(pictured, tokenizer=tokenizer, generation_len=generation_len, **options)

    def _chats(self, prompts: Any) -> list[bool]:
        return super()._chats(prompts.prompts if isinstance(prompts, Pictured) else prompts)

    def encode(
        self,
        prompts: Prompts | Pictured,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[Any]:
        """Prompts with their media, in any form that :meth:`generate` takes."""
        if isinstance(prompts, Pictured):
            return self._read(prompts)
        if isinstance(prompts, Mapping) and self._has_media(prompts):
            return self._prompts(prompts)
        return [self._plain(ids) for ids in self.encode_text(prompts, tokenizer)]

    def _has_media(self, batch: Mapping[str, Any]) -> bool:
        from QEfficient.processing.media import MAIN_INPUTS

        return any(name in MAIN_INPUTS for name in batch)

    def _read(self, pictured: Pictured) -> list[MediaPrompt]:
        from QEfficient.processing.processor import process

        processor = pictured.processor or self.processor
        audio = pictured.audio or [[] for _ in pictured.prompts]
        read = []
        for prompt, images, clips in zip(pictured.prompts, pictured.images, audio, strict=True):
            opened = open_audio(clips, processor)
            is_heard = self.record.layout.is_added
            batch = heard(processor, prompt, opened) if is_heard else process(processor, prompt, images, opened)
            read += self._prompts(batch)
        return read

    def _plain(self, ids: list[int]) -> MediaPrompt:
        if self.record.layout.is_added:
            raise OptionError("The model adds audio to every token, and answers no text alone: pass audio=...")
        for modality, token in self.record.layout.placeholders.items():
            if token in ids:
                raise _unequal(modality, token, ids.count(token), 0)
        types = {name: np.zeros(len(ids), np.int64) for name in self.record.layout.token_types}
        return MediaPrompt(ids, self._media(np.array(ids, np.int64), None, None, types, None))

    def _prompts(self, batch: Mapping[str, Any]) -> list[MediaPrompt]:
        """The prompts of a processor's output, their padding dropped."""
        self._check_names(batch)
        self._check_constants(batch)
        if self.record.layout.is_added:
            return self._over_rows(batch)
        if batch.get("input_ids") is None:
            raise OptionError(f"The processor's output has no input_ids; it has {', '.join(map(str, batch))}.")
        ids = np.atleast_2d(np.asarray(batch["input_ids"]))
        for name in ("attention_mask", *self.record.layout.token_types):
            shape = np.shape(ids if batch.get(name) is None else batch[name])
            if np.atleast_2d(np.empty(shape)).shape != ids.shape:
                raise OptionError(f"{name} has the shape {list(shape)}, and input_ids {list(ids.shape)}.")
        mask = np.asarray(batch["attention_mask"]).astype(bool) if batch.get("attention_mask") is not None else ids >= 0
        if self.record.crossing is not None:
            return self._crossing(batch, ids, mask, self.record.crossing)
        marked = self._marked(ids, batch)
        features, deepstack = self._features(batch, np.where(mask, marked, -1))
        coordinates = self._host.coordinates(batch) if self.record.layout.num_positions else None
        prompts, begin = [], 0
        for row, keep in enumerate(mask):
            kept = marked[row][keep]
            count = int(self._is_placeholder(kept).sum())
            rows = slice(begin, begin + count)
            begin += count
            types = {
                n: np.atleast_2d(np.asarray(batch[n]))[row][keep] for n in self.record.layout.token_types if n in batch
            }
            media = self._media(
                kept,
                None if features is None else features[rows],
                None if deepstack is None else deepstack[:, rows],
                types,
                None if coordinates is None else coordinates[:, row, keep],
            )
            prompts.append(MediaPrompt(ids[row][keep].tolist(), media))
        return prompts

    def _check_names(self, batch: Mapping[str, Any]) -> None:
        """
        Raises:
            OptionError: the batch has something that the model does not take.
        """
        known = self.record.layout.names
        for name, value in batch.items():
            if known and value is not None and name not in known:
                raise OptionError(
                    f"The processor's output has '{name}', which the model does not take.{nearest(name, known)} Pass "
                    "it as the model's processor made it."
                )

    def _check_constants(self, batch: Mapping[str, Any]) -> None:
        """
        Raises:
            OptionError: a number is not the one that the package was compiled for.
        """
        for name, number in self.record.layout.constants.items():
            value = number if batch.get(name) is None else float(np.asarray(batch[name]))
            if value != number:
                raise OptionError(
                    f"{name}={value:g}, and the package was compiled with a processor that says {number:g}: compile "
                    "with processor=... for this one."
                )

    def _over_rows(self, batch: Mapping[str, Any]) -> list[MediaPrompt]:
        """The prompts of a batch whose audio is added to every token."""
        (encoder,) = self.encoders
        features, _ = encoder.encode(batch) or (None, None)
        if features is None:
            raise OptionError(f"The processor's output has no audio; it has {', '.join(map(str, batch))}.")
        num_clips = len(batch[encoder.record.parts[0].inputs[0]])
        prompts = prompts_over_rows(batch, features, num_clips, self.generation_config.get("bos_token_id"))
        return [MediaPrompt(ids, media) for ids, media in prompts]

    def _crossing(
        self, batch: Mapping[str, Any], ids: np.ndarray, mask: np.ndarray, layout: CrossLayout
    ) -> list[MediaPrompt]:
        """The prompts of a batch whose images take no tokens' place, and are padded to as many in each prompt."""
        (encoder,) = self.encoders
        features, _ = encoder.encode(batch) or (None, None)
        seen = None if batch.get(layout.mask) is None else np.asarray(batch[layout.mask])
        prompts, num_padded = [], 0 if seen is None else seen.shape[2]
        for row, keep in enumerate(mask):
            kept = ids[row][keep]
            tiles = None if seen is None else seen[row][keep].reshape(len(kept), num_padded, -1)
            count = 0 if tiles is None else int(tiles.any((0, 2)).sum())
            shown = self._is_placeholder(kept)
            begin = row * num_padded * layout.image_len
            states = None if features is None or not count else features[begin : begin + count * layout.image_len]
            num_states = 0 if states is None else len(states)
            if num_states != count * layout.image_len or (self.record.layout.placeholders and count != shown.sum()):
                token = next(iter(self.record.layout.placeholders.values()), -1)
                raise _unequal("image", token, int(shown.sum()), num_states)
            prompts.append(MediaPrompt(kept.tolist(), layout.media(shown, count, states, tiles, row)))
        return prompts

    def _marked(self, ids: np.ndarray, batch: Mapping[str, Any]) -> np.ndarray:
        """``ids [B, S]`` with ``NO_TOKEN`` where another argument says that a token is a placeholder."""
        places = batch.get(self.record.layout.mask)
        return ids if places is None else np.where(np.atleast_2d(np.asarray(places)) == 1, NO_TOKEN, ids)

    def _media(
        self,
        ids: np.ndarray,
        features: np.ndarray | None,
        deepstack: np.ndarray | None,
        types: Mapping[str, np.ndarray],
        coordinates: np.ndarray | None,
    ) -> PromptMedia:
        layout = self.record.layout
        spans = spans_of(types[layout.token_types[0]], layout.block_types) if types and layout.block_types else ()
        return PromptMedia(self._is_placeholder(ids), features, deepstack, types, coordinates, spans)

    def _is_placeholder(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, list(self.record.layout.placeholders.values()))

    def _features(self, batch: Mapping[str, Any], ids: np.ndarray) -> Features:
        """All features of a batch, in the order of its placeholders ``[B, S]``."""
        encoded = {encoder.record.modality: encoder.encode(batch) for encoder in self.encoders}
        ordered: list[Features] = []
        for modality, token in self.record.layout.placeholders.items():
            count, features = int((ids == token).sum()), encoded.get(modality)
            rows = _count(features)
            if count != rows:
                raise _unequal(modality, token, count, rows)
            if features is not None:
                ordered.append(features)
        if len(ordered) > 1:
            return self._interleaved(encoded, ids)
        return ordered[0] if ordered else (None, None)

    def _interleaved(self, encoded: Mapping[str, Features | None], ids: np.ndarray) -> Features:
        """The features of several modalities, in the order of their tokens."""
        order = [(modality, token) for modality, token in self.record.layout.placeholders.items() if encoded[modality]]
        places = np.concatenate([np.flatnonzero(ids.reshape(-1) == token) for _, token in order]).argsort(kind="stable")
        parts = [encoded[modality] for modality, _ in order]
        rows = [part[0] for part in parts if part is not None and part[0] is not None]
        layers = [_layers_of(part, self.record.layout.num_deepstack) for part in parts if part is not None]
        return (
            np.concatenate(rows)[places] if rows else None,
            np.concatenate(layers, axis=1)[:, places] if self.record.layout.num_deepstack else None,
        )

    def _request(self, index: int, prompt: Any, generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        request = self._builder.build(prompt.ids, generation_len, sampling, media=prompt.media)
        if not self.record.layout.is_added:
            return request
        is_asked = generation_len is not None or any(sampling.get(name) is not None for name in _LENS)
        return within_audio(request, self.record.ctx_len, is_asked=is_asked)


def _unequal(modality: str, token: int, num_placeholders: int, num_rows: int) -> OptionError:
    return OptionError(
        f"The prompts have {num_placeholders} placeholder(s) for {modality}s (token {token}), and the {modality}s make "
        f"{num_rows} row(s) of features: pass all {modality}s, and the prompt as the processor made it."
    )


def _layers_of(features: Features, num_layers: int) -> np.ndarray:
    """Features ``[K, V, D]`` that layers get besides; zeros of a modality that has none."""
    rows, layers = features
    if layers is not None:
        return layers
    return np.zeros((num_layers, *(() if rows is None else rows.shape)), np.float32)


def _count(features: Features | None) -> int:
    if features is None:
        return 0
    rows, layers = features
    return len(rows) if rows is not None else layers.shape[1] if layers is not None else 0
