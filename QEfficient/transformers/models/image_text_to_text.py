"""The auto class of models that see or hear: an encoder of images or audio before a language model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.base.open_package import check_runtime
from QEfficient.base.qpc_paths import PackagePath
from QEfficient.contract import Json, Specialization
from QEfficient.errors import LifecycleError, OptionError
from QEfficient.generation.added_media import heard
from QEfficient.generation.cross_media import CrossLayout
from QEfficient.generation.media import MediaLayout
from QEfficient.generation.media_encoder import MediaEncoderRecord
from QEfficient.generation.media_prompts import Clips, names_media, open_audio, with_media
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.image_text_to_text import LANGUAGE, ImageTextRecord
from QEfficient.generation_options import CallArguments, GenerationOptions, StreamArguments, Streamer
from QEfficient.option_docs import lists_options
from QEfficient.option_types import ImageTextToTextCompileArgs, RunArgs, StreamArgs
from QEfficient.options import ImageTextToTextCompileOptions, require_bool
from QEfficient.store.artifacts import update_body
from QEfficient.targets import Target
from QEfficient.tasks import TASKS
from QEfficient.transformers.models.causal_lm import CausalLMPlan, QEFFAutoModelForCausalLM
from QEfficient.transformers.models.generative_model import Stream
from QEfficient.transformers.models.media_encoders import (
    check_adapter,
    described,
    encoder_record,
    known_names,
    measure_media,
    part_graphs,
    part_shapes,
    parts_of,
    save_host_parameters,
    sharing_cores,
    without_processor,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from QEfficient.generation.audio_inputs import AudioInputs
    from QEfficient.generation.transcript import Transcript
    from QEfficient.transformers.lowering.cache_spec import StateSpec
    from QEfficient.transformers.lowering.media import MediaTokens
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder
    from QEfficient.verify.parity import ParityReport

logger = logging.getLogger(__name__)
Inputs = Any
"""A processor's output; or a text, a list of them, or chats."""
_USUAL_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class ImageTextPlan(CausalLMPlan):
    """What decides the graphs of a model that sees or hears."""

    media: MediaTokens | None = None
    encoders: tuple[str, ...] = ()
    """What the graphs of each encoder are, as text."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "media": repr(self.media)}


class QEFFAutoModelForImageTextToText(QEFFAutoModelForCausalLM):
    """A model that answers prompts with images or audio.

    Args:
        model: a Hugging Face model, already loaded; :meth:`from_pretrained` loads one.
        kv_offload: upstream's switch: the encoder and the language model are two graphs. They always are here.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        qaic_config: upstream's settings: see :class:`QEfficient.qaic_config.QaicConfig`.
        processor: reads texts, images and audio; put into the package.
        tokenizer: default: the processor's.

    Raises:
        UnsupportedModel: the model has no encoder of images or audio.
    """

    task = "image_text_to_text"
    options_class: ClassVar[type[ImageTextToTextCompileOptions]] = ImageTextToTextCompileOptions
    load_arguments = ("kv_offload", "continuous_batching", "qaic_config", "processor")

    def __new__(cls, model: PreTrainedModel | None = None, *args: Any, **kwargs: Any) -> Self:
        """A model with an encoder and a decoder gets the class for these."""
        encoder_decoder = TASKS["vision2seq"].load_auto_class()
        chosen = encoder_decoder if model is not None and encoder_decoder.takes_model(model) else cls
        return super().__new__(chosen if issubclass(chosen, cls) else cls)

    def __init__(
        self,
        model: Any,
        kv_offload: bool | None = True,
        continuous_batching: bool = False,
        qaic_config: Mapping[str, Any] | None = None,
        *,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        super().__init__(model, continuous_batching, qaic_config, tokenizer=tokenizer)
        if kv_offload is not None:
            require_bool("kv_offload", kv_offload)
            if not kv_offload:
                logger.warning("kv_offload=False: no effect. The encoder and the language model are separate graphs.")
        self.processor = processor
        self._media: tuple[dict[str, MediaEncoder], MediaTokens, tuple[int, ...]] | None = None

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForMultimodalLM

        return AutoModelForMultimodalLM

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model of transformers' tables: one of vision that its config has, or of audio."""
        from transformers.models.auto import modeling_auto as auto

        seeing = {*auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
        hearing = {*auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values()} - seeing
        sees = any(getattr(config, name, None) is not None for name in ("vision_config", "vq_config"))
        known = seeing | hearing if sees else hearing
        return not getattr(config, "is_encoder_decoder", False) and any(head in known for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        return cls.takes(model.config, [type(model).__name__])

    @classmethod
    def _check_files(cls, folder: Path) -> None:
        check_adapter(folder)

    def _read_files(self, folder: Path) -> None:
        from QEfficient.processing.processor import has_processor, open_processor

        if self.processor is None and has_processor(folder):
            self.processor = open_processor(folder)
            if self.tokenizer is None:
                self.tokenizer = getattr(self.processor, "tokenizer", None)

    @property
    def hears(self) -> bool:
        """Whether prompts may have audio."""
        return self.processor is not None and "audio" in self._seen()[0]

    # What the graphs are.

    def _seen(self) -> tuple[dict[str, MediaEncoder], MediaTokens, tuple[int, ...]]:
        """The encoders, what stands for their features, and the token types that are blocks."""
        if self._media is None:
            self._media = measure_media(self._loaded(), self.processor)
        return self._media

    def _sample(self, modality: str, size: Any, *, is_long: bool = False) -> dict[str, Any]:
        """What the processor makes of a prompt, short or long, with an image or a clip of this size."""
        from QEfficient.processing.samples import LONG_TEXT, TEXT, prompt_sample

        if self.processor is None:
            raise without_processor(self.model_name)
        return prompt_sample(self.processor, modality, [size], LONG_TEXT if is_long else TEXT)

    def _plan(self, options: ImageTextToTextCompileOptions, target: Target) -> ImageTextPlan:  # type: ignore[override]
        from QEfficient.transformers.lowering.crossing import CrossMedia

        encoders, tokens, _ = self._seen()
        if target.has_static_shapes:
            self._check_cores(options.num_cores, 1 + len(parts_of(encoders.values())))
        plan = super()._plan(options, target)
        shared = {item.name: getattr(plan, item.name) for item in fields(plan)}
        shared["counts_rows"] = target.has_static_shapes and not isinstance(tokens, CrossMedia)
        return ImageTextPlan(**shared, media=self._sized(tokens, options), encoders=described(encoders.values()))

    def _sized(self, tokens: MediaTokens, options: ImageTextToTextCompileOptions) -> MediaTokens:
        """``tokens`` with room for as many images as options say, where that is not a question of tokens."""
        from QEfficient.transformers.lowering.crossing import CrossMedia

        if isinstance(tokens, CrossMedia):
            return replace(tokens, num_images=options.max_num_images)
        if options.max_num_images != 1:
            raise OptionError(
                f"max_num_images={options.max_num_images} is for models with cross-attention to images. "
                f"{self.model_name} takes as many images as ctx_len has room for: leave it out."
            )
        return tokens

    def state_specs(self) -> list[StateSpec]:
        from QEfficient.transformers.lowering.crossing import media_specs

        return media_specs(self._loaded(), None if self.processor is None else self._seen()[1])

    def _check_cores(self, num_cores: int, num_graphs: int) -> None:
        if num_cores < num_graphs:
            raise OptionError(
                f"num_cores={num_cores} is too few: {self.model_name} has {num_graphs} graphs, which share the "
                f"card. Compile with num_cores={num_graphs} or more."
            )

    def _choose(self, target: Target, forced: Any = None) -> LoweringChoice:
        from QEfficient.transformers.lowering.select import choose_lowering

        media = None if self.processor is None else self._seen()[1]
        return choose_lowering(self._loaded(), target, forced, media)

    def check_lowering(self, **options: Any) -> Self:
        if self.processor is not None:
            return super().check_lowering(**options)
        parsed, target = self._parse(options)  # without a processor only how it reads text is known
        self._choose(target, parsed.lowering)
        return self

    check_lowering.__doc__ = QEFFAutoModelForCausalLM.check_lowering.__doc__

    def _graphs(self, plan: CausalLMPlan) -> dict[str, TaskGraph]:
        encoders = self._seen()[0]
        parts = part_graphs(self._loaded(), encoders.values())
        media = plan.media if isinstance(plan, ImageTextPlan) else None
        return {LANGUAGE: self._language_graph(plan, media), **parts}

    def _specializations(  # type: ignore[override]
        self, plan: CausalLMPlan, options: ImageTextToTextCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        from QEfficient.processing.samples import SIZES

        shapes = tuple(self._language_specializations(plan, options, target))
        encoders = self._seen()[0]
        sizes: dict[str, list[Any]] = {
            "image": [(size, size) for size in options.img_sizes] or list(SIZES["image"][1]),
            "audio": list(options.clip_seconds) or [_USUAL_SECONDS],
        }
        named = {LANGUAGE: shapes}
        for modality, encoder in encoders.items():
            compiled = sizes[modality] if target.has_static_shapes else []
            # An encoder that reads the text too gets it padded to the longest that was compiled.
            samples = [self._sample(modality, size, is_long=encoder.reads_text) for size in compiled]
            named |= part_shapes(self._loaded(), encoder, samples)
        return named

    def _graph_options(  # type: ignore[override]
        self, name: str, options: ImageTextToTextCompileOptions, target: Target
    ) -> ImageTextToTextCompileOptions:
        """All graphs are on a card at once, so that they share its cores: a quarter of them is for the encoders."""
        return sharing_cores(options, target, len(parts_of(self._seen()[0].values())), is_encoder=name != LANGUAGE)

    def _language_specializations(
        self, plan: CausalLMPlan, options: ImageTextToTextCompileOptions, target: Target
    ) -> list[Specialization]:
        from QEfficient.transformers.lowering.crossing import CrossMedia

        ((_, shapes),) = super()._specializations(plan, options, target).items()
        sized = []
        media = plan.media if isinstance(plan, ImageTextPlan) else None
        for shape in shapes:
            if isinstance(media, CrossMedia):
                is_decode = shape.name == "Decode" and len(shapes) > 1
                symbols = {**shape.symbols, "vision_size": 1 if is_decode else media.num_slots}
                sized.append(Specialization(name=shape.name, symbols=symbols))
                continue
            rows = {"vision_batch_size": shape.symbols["batch_size"], "vision_size": shape.symbols["seq_len"]}
            if options.vision_size is not None:
                rows["vision_size"] = max(options.vision_size, rows["vision_size"])
            sized.append(Specialization(name=shape.name, symbols={**shape.symbols, **rows}))
        return sized

    def _session(self, plan: CausalLMPlan, options: Any, target: Target) -> Any:
        encoders, tokens, blocks = self._seen()
        layout = MediaLayout(
            placeholders=dict(tokens.placeholders),
            width=tokens.width,
            has_pooled=tokens.has_pooled,
            num_deepstack=tokens.num_deepstack,
            token_types=tokens.token_types,
            num_positions=tokens.num_positions,
            block_types=blocks,
            mask=tokens.mask,
            is_added=tokens.is_added,
            constants=dict(tokens.constants),
            names=known_names(self._loaded(), self._samples(encoders)),
        )
        records = self._encoder_records(encoders, target)
        decoder, crossing = super()._session(plan, options, target), self._cross_layout(plan)
        return ImageTextRecord(decoder=decoder, layout=layout, encoders=records, crossing=crossing)

    @staticmethod
    def _cross_layout(plan: CausalLMPlan) -> CrossLayout | None:
        from QEfficient.transformers.lowering.crossing import CrossMedia

        media = plan.media if isinstance(plan, ImageTextPlan) else None
        if not isinstance(media, CrossMedia):
            return None
        sizes = {name: getattr(media, name) for name in ("num_images", "num_tiles", "tile_len")}
        return CrossLayout(width=media.width, mask=media.arguments[1], **sizes)

    def _encoder_records(self, encoders: Mapping[str, MediaEncoder], target: Target) -> tuple[MediaEncoderRecord, ...]:
        """What a package says of its encoders."""
        from QEfficient.transformers.lowering.crossing import CrossMedia

        model, is_static = self._loaded(), target.has_static_shapes
        in_prompts = isinstance(self._seen()[1], CrossMedia)
        records = {
            name: encoder_record(model, encoder, has_static_shapes=is_static, rows_mask=self._rows_mask(name))
            for name, encoder in encoders.items()
        }
        return tuple(replace(record, in_prompts=in_prompts) for record in records.values())

    def _rows_mask(self, modality: str) -> str:
        from QEfficient.transformers.tasks.media_tokens import rows_mask

        return rows_mask(self._loaded(), modality, self._samples([modality])[modality])

    def _samples(self, modalities: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """What the processor makes of a prompt with media, by modality."""
        from QEfficient.processing.samples import prompt_samples

        assert self.processor is not None
        return {modality: prompt_samples(self.processor, modality)[0] for modality in modalities}

    # What inference needs beside the compiled files.

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        from QEfficient.processing.processor import FOLDER, save_processor

        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        if self.processor is not None:
            save_processor(self.processor, target)
        self.config.save_pretrained(target)
        save_host_parameters(self._loaded(), self._seen()[0].values(), self._weights(), target)

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[ImageTextToTextCompileArgs]
    ) -> PackagePath:
        return PackagePath(super().compile(compile_dir, **options))  # type: ignore[misc]

    @lists_options(GenerationOptions, CallArguments)
    def generate(  # type: ignore[override]
        self,
        inputs: Inputs = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        processor: ProcessorMixin | None = None,
        images: Sequence[Any] | None = None,
        prompts: Inputs = None,
        streamer: Streamer | None = None,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        generation_len: int | Sequence[int] | None = None,
        *,
        audio: Clips | None = None,
        stream: Stream = False,
        **options: Unpack[RunArgs],
    ) -> CloudAI100ExecInfo:
        """Answer prompts with the compiled package.

        Args:
            inputs: a processor's output; or prompts, where ``prompts`` is left out.
            tokenizer: default: the model's.
            processor: default: the model's.
            images: of one prompt, or a list of images for each: paths, bytes, arrays, or images of Pillow.
            prompts: texts or chats; a text without placeholders gets its images in front.
            streamer: of transformers, for a single answer.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            generation_len: maximum number of new tokens, for all prompts or one per prompt.
            audio: of one prompt, or a list for each: files, or samples at the model's rate.
            stream: True prints the text as it comes; a function is called with each piece.
            options: see :meth:`QEFFAutoModelForCausalLM.generate`.

        Raises:
            LifecycleError: nothing was compiled yet, or there is no processor.
            CapacityError: a prompt does not fit, or an image or a clip has a size that was not compiled.
            OptionError: an unknown or impossible option; no image or audio; other numbers of them than placeholders.
        """
        check_runtime(runtime_ai100)
        if (inputs is None) == (prompts is None):
            raise OptionError("Give either a processor's output (inputs) or prompts.")
        compiled = self._open(device_ids)
        asked = prompts if inputs is None else inputs
        answers: CloudAI100ExecInfo = compiled.generate(
            asked,
            images=images,
            audio=audio,
            processor=self._reader(processor, images, audio, names_media(asked) or None),
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            stream=stream,
            streamer=streamer,
            **options,
        )
        return answers

    @lists_options(GenerationOptions, StreamArguments)
    def stream(
        self,
        prompt: Inputs,
        *,
        images: Sequence[Any] | None = None,
        audio: Clips | None = None,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[StreamArgs],
    ) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Arguments and errors as of :meth:`generate`.

        Args:
            prompt: a processor's output, a text or a chat.
            images: of the prompt.
            audio: of the prompt.
            processor: default: the model's.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.
        """
        reader = self._reader(processor, images, audio, names_media(prompt) or None)
        media = {"images": images, "audio": audio, "processor": reader}
        return self._stream(prompt, tokenizer, {**options, **media, "generation_len": generation_len})

    def transcribe(
        self,
        inputs: AudioInputs,
        device_ids: Sequence[int] | None = None,
        *,
        prompt: str | None = None,
        language: str | None = None,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: object,
    ) -> list[Transcript]:
        """The text of each audio, as long as it fits into ``ctx_len``, by a model that hears.

        Args:
            inputs: a file, samples at the model's rate, or a list of these.
            device_ids: as of :meth:`generate`.
            prompt: what to do with the audio; default: the request for a transcription that the processor has.
            language: of the audio, where the processor's request takes one; else the model says it.
            processor: default: the model's.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens of an audio.
            options: none: what an encoder with a decoder is asked for, such as times, has no place in a prompt.

        Raises:
            LifecycleError: nothing was compiled yet, or there is no processor.
            CapacityError: audio is empty, or too long for ``ctx_len``.
            OptionError: it is not audio, the processor has no request for a transcription, or it takes no such option.
        """
        if options:
            raise OptionError(f"{self.model_name} has no such options of transcribe(): {', '.join(options)}.")
        transcripts: list[Transcript] = self._open(device_ids).transcribe(
            inputs,
            prompt=prompt,
            language=language,
            processor=self._reader(processor, inputs),
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
        )
        return transcripts

    def _reader(self, processor: ProcessorMixin | None, *media: object) -> ProcessorMixin | None:
        """What reads media, where there are some."""
        return self.processor if processor is None and any(each is not None for each in media) else processor

    def verify(  # type: ignore[override]
        self,
        inputs: Inputs = None,
        *,
        prompts: Inputs = None,
        images: Sequence[Any] | None = None,
        audio: Clips | None = None,
        generation_len: int = 32,
        node_precision_out: str | os.PathLike[str] | None = None,
    ) -> ParityReport:
        """Compare the compiled package with Hugging Face: features of images, then tokens; store the report beside it.

        Args:
            inputs: a processor's output for one prompt; or prompts, where ``prompts`` is left out.
            prompts: texts or chats.
            images: as in :meth:`generate`.
            audio: as in :meth:`generate`.
            generation_len: tokens to compare for each prompt.
            node_precision_out: not taken: the graphs of a model that sees are not run in other formats.

        Raises:
            LifecycleError: nothing was compiled yet, the model was opened from a package, or there is no processor.
            CapacityError: a prompt does not fit.
            OptionError: ``node_precision_out`` is set.
        """
        from QEfficient.verify.media_parity import compare_media

        if node_precision_out is not None:
            raise OptionError(
                "node_precision_out is for causal language models: a model that sees is compared as it is."
            )

        self._loaded()
        compiled = self._open()
        report = compare_media(self.model, compiled, self._batches(inputs, prompts, images, audio), generation_len)
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})
        return report

    def _batches(
        self, inputs: Any, prompts: Any, images: Sequence[Any] | None, audio: Any = None
    ) -> list[Mapping[str, Any]]:
        """A processor's output for each prompt."""
        from QEfficient.processing.processor import process

        if isinstance(inputs, Mapping):
            return [inputs]
        asked = prompts if inputs is None else inputs
        if asked is None or self.processor is None:
            raise LifecycleError("Give a processor's output, or prompts where the model has a processor.")
        texts = [asked] if isinstance(asked, str) else list(asked)
        read = with_media(texts, images, audio, self.processor)
        clips = [open_audio(each, self.processor) for each in read.audio]
        if self._adds_media():
            return [heard(self.processor, text, each) for text, each in zip(read.prompts, clips, strict=True)]
        each_prompt = zip(read.prompts, read.images, clips, strict=True)
        return [process(self.processor, *each) for each in each_prompt]

    def _adds_media(self) -> bool:
        """Whether prompts are clips without a text, whose features are added to every token."""
        return self._seen()[1].is_added
