"""The auto class of models that see: an encoder of images before a language model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from QEfficient.base.open_package import check_runtime
from QEfficient.contract import Json, Specialization
from QEfficient.errors import LifecycleError, OptionError, UnsupportedModel
from QEfficient.generation.media import MediaLayout
from QEfficient.generation.media_encoder import MediaEncoderRecord, MediaPartRecord
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.image_text_to_text import LANGUAGE, ImageTextRecord, with_images
from QEfficient.options import ImageTextToTextCompileOptions, require_bool
from QEfficient.store.artifacts import update_body
from QEfficient.targets import Target
from QEfficient.transformers.models.causal_lm import CausalLMPlan, QEFFAutoModelForCausalLM
from QEfficient.transformers.models.generative_model import Stream

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from QEfficient.transformers.lowering.media import MediaTokens
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder, MediaPart
    from QEfficient.verify.parity import ParityReport

Inputs = Any
"""A processor's output; or a text, a list of them, or chats."""
_ENCODER_SHARE = 4
_SAMPLES = (((448, 448), (448, 448)), ((896, 448),), ((336, 672),), ((1400, 1200),), ((64, 48),))
"""Width and height of the images of prompts that show what an encoder takes, and what varies with them; the first has
more than one."""
_TEXT = "Describe this."
"""Their text is of one to four of these: some encoders read it too."""


@dataclass(frozen=True, kw_only=True)
class ImageTextPlan(CausalLMPlan):
    """What decides the graphs of a model that sees."""

    media: MediaTokens | None = None
    encoders: tuple[str, ...] = ()
    """What the graphs of each encoder are, as text."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "media": repr(self.media)}


class QEFFAutoModelForImageTextToText(QEFFAutoModelForCausalLM):
    """A model that answers prompts with images.

    Args:
        model: a Hugging Face model, already loaded; :meth:`from_pretrained` loads one.
        kv_offload: upstream's switch: the encoder and the language model are two graphs. They always are here.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        processor: reads texts and images; put into the package.
        tokenizer: default: the processor's.

    Raises:
        UnsupportedModel: the model has no encoder of images.
    """

    task = "image_text_to_text"
    options_class: ClassVar[type[ImageTextToTextCompileOptions]] = ImageTextToTextCompileOptions
    load_arguments = ("kv_offload", "continuous_batching", "processor")

    def __init__(
        self,
        model: Any,
        kv_offload: bool | None = True,
        continuous_batching: bool = False,
        *,
        processor: ProcessorMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        super().__init__(model, continuous_batching, tokenizer=tokenizer)
        if kv_offload is not None:
            require_bool("kv_offload", kv_offload)
        self.processor = processor
        self._media: tuple[dict[str, MediaEncoder], MediaTokens, tuple[int, ...]] | None = None

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model of transformers' table whose config has one of vision."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

        sees = any(getattr(config, name, None) is not None for name in ("vision_config", "vq_config"))
        return sees and not config.is_encoder_decoder and any(head in NAMES.values() for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        return cls.takes(model.config, [type(model).__name__])

    def _read_files(self, folder: Path) -> None:
        from QEfficient.processing.processor import has_processor, open_processor

        if self.processor is None and has_processor(folder):
            self.processor = open_processor(folder)
            if self.tokenizer is None:
                self.tokenizer = getattr(self.processor, "tokenizer", None)

    # What the graphs are.

    def _seen(self) -> tuple[dict[str, MediaEncoder], MediaTokens, tuple[int, ...]]:
        """The encoders, what stands for their features, and the token types that are blocks."""
        from QEfficient.transformers.tasks.media_parts import media_encoder
        from QEfficient.transformers.tasks.media_tokens import block_types, media_tokens

        if self._media is None:
            model, samples = self._loaded(), self._samples()
            encoder = media_encoder(model, "image", samples)
            if encoder is None:
                raise UnsupportedModel(
                    f"{self.model_name} has no get_image_features() that takes what its processor makes."
                )
            encoders = {"image": encoder}
            tokens = media_tokens(model, encoders, samples[-1])
            self._media = encoders, tokens, block_types(model, tokens)
        return self._media

    def _samples(self) -> list[dict[str, Any]]:
        """What the processor makes of two images in one prompt, where it takes so many, and of one at a time."""
        alone = [self._sample(sizes, _TEXT * number) for number, sizes in enumerate(_SAMPLES[1:], start=1)]
        try:
            return [self._sample(_SAMPLES[0], 2 * _TEXT), *alone]
        except OptionError:
            return alone

    def _sample(self, sizes: Sequence[tuple[int, int]], text: str = _TEXT) -> dict[str, Any]:
        """What the processor makes of images of these sizes before a text."""
        from QEfficient.processing.processor import process
        from QEfficient.processing.samples import picture

        if self.processor is None:
            raise LifecycleError(
                f"{self.model_name} has no processor, which shows what images become: pass processor=..., or load a "
                "checkpoint that has one with from_pretrained()."
            )
        return process(self.processor, text, [picture(*size) for size in sizes])

    def _plan(self, options: ImageTextToTextCompileOptions, target: Target) -> ImageTextPlan:  # type: ignore[override]
        encoders, tokens, _ = self._seen()
        plan = super()._plan(options, target)
        described = [
            repr((part.path, part.constants, part.axes, sorted(part.inputs))) for part in self._parts(encoders)
        ]
        shared = {item.name: getattr(plan, item.name) for item in fields(plan)}
        shared["counts_rows"] = target.has_static_shapes
        return ImageTextPlan(**shared, media=tokens, encoders=tuple(described))

    @staticmethod
    def _parts(encoders: Mapping[str, MediaEncoder]) -> list[MediaPart]:
        return [part for encoder in encoders.values() for part in encoder.parts]

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
        from QEfficient.transformers.tasks.media_parts import part_graph

        encoders = self._seen()[0]
        parts = {part.name: part_graph(self._loaded(), part) for part in self._parts(encoders)}
        return {LANGUAGE: self._language_graph(plan, self._seen()[1]), **parts}

    def _specializations(  # type: ignore[override]
        self, plan: CausalLMPlan, options: ImageTextToTextCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        shapes = tuple(self._language_specializations(plan, options, target))
        sizes = [(size, size) for size in options.img_sizes] or list(_SAMPLES[1])
        samples = [self._sample([size]) for size in sizes] if target.has_static_shapes else []
        parts = self._parts(self._seen()[0])
        return {LANGUAGE: shapes, **{part.name: self._part_shapes(part, samples) for part in parts}}

    def _graph_options(  # type: ignore[override]
        self, name: str, options: ImageTextToTextCompileOptions, target: Target
    ) -> ImageTextToTextCompileOptions:
        """All graphs are on a card at once, so that they share its cores: a quarter of them is for the encoders."""
        num_parts = len(self._parts(self._seen()[0]))
        if not target.has_static_shapes or options.num_cores <= num_parts:
            return options
        for_part = max(1, options.num_cores // _ENCODER_SHARE // num_parts)
        num_cores = options.num_cores - num_parts * for_part if name == LANGUAGE else for_part
        return replace(options, num_cores=num_cores)

    def _language_specializations(
        self, plan: CausalLMPlan, options: ImageTextToTextCompileOptions, target: Target
    ) -> list[Specialization]:
        ((_, shapes),) = super()._specializations(plan, options, target).items()
        sized = []
        for shape in shapes:
            rows = {"vision_batch_size": shape.symbols["batch_size"], "vision_size": shape.symbols["seq_len"]}
            if options.vision_size is not None:
                rows["vision_size"] = max(options.vision_size, rows["vision_size"])
            sized.append(Specialization(name=shape.name, symbols={**shape.symbols, **rows}))
        return sized

    def _part_shapes(self, part: MediaPart, samples: Sequence[Mapping[str, Any]]) -> tuple[Specialization, ...]:
        """The shape of a part for each image; none where any shape runs."""
        shapes: dict[str, Specialization] = {}
        for sample in samples:
            symbols = self._symbols(part, sample)
            shapes.setdefault(str(symbols), Specialization(name="Vision", symbols=symbols))
        return tuple(shapes.values())

    def _symbols(self, part: MediaPart, sample: Mapping[str, Any]) -> dict[str, int]:
        """Sizes of the axes of a part for an image."""
        from QEfficient.transformers.tasks.media_parts import part_inputs

        if not part.axes:
            return {"batch_size": 1}
        tensors = part_inputs(self._loaded(), part, sample)
        return {name: tensors[key].shape[axis] for key, axes in part.axes.items() for axis, name in axes.items()}

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
        )
        records = tuple(_record(encoder) for encoder in encoders.values())
        return ImageTextRecord(decoder=super()._session(plan, options, target), layout=layout, encoders=records)

    # What inference needs beside the compiled files.

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        from QEfficient.processing.processor import FOLDER, save_processor

        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        if self.processor is not None:
            save_processor(self.processor, target)
        self.config.save_pretrained(target)
        self._save_host_parameters(target)

    def _save_host_parameters(self, folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        from QEfficient.processing.host import PARAMETERS

        names = [name for encoder in self._seen()[0].values() for name in encoder.host_parameters]
        if not names:
            return
        source, base = self._weights(), self._loaded().base_model
        values = {}
        for name in names:
            parameter = base.get_parameter(name)
            pieces = torch.cat(list(source.read(source.name_of(parameter))))
            values[name] = pieces.reshape(parameter.shape).float()
        save_file(values, folder / PARAMETERS)

    def generate(  # type: ignore[override]
        self,
        inputs: Inputs = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        processor: ProcessorMixin | None = None,
        images: Sequence[Any] | None = None,
        prompts: Inputs = None,
        streamer: object = None,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        generation_len: int | Sequence[int] | None = None,
        *,
        stream: Stream = False,
        **sampling: Any,
    ) -> CloudAI100ExecInfo:
        """Answer prompts with the compiled package.

        Args:
            inputs: a processor's output; or prompts, where ``prompts`` is left out.
            tokenizer: default: the model's.
            processor: default: the model's.
            images: of one prompt, or a list of images for each: paths, bytes, arrays, or images of Pillow.
            prompts: texts or chats; a text without placeholders gets its images in front.
            streamer: upstream's; not taken, use ``stream``.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            generation_len: most new tokens, for all prompts or one number each.
            stream: True prints the text as it comes; a function is called with each piece.
            sampling: temperature, top_k, top_p, min_p, repetition_penalty, seed, do_sample; one value or one a prompt.

        Raises:
            LifecycleError: nothing was compiled yet, or there is no processor.
            CapacityError: a prompt does not fit, or an image has a size that was not compiled.
            OptionError: an unknown or impossible option; no image; images and placeholders differ in number.
        """
        check_runtime(runtime_ai100)
        if streamer is not None:
            raise OptionError("streamer is not taken: pass stream=True, or a function that gets each piece.")
        if (inputs is None) == (prompts is None):
            raise OptionError("Give either a processor's output (inputs) or prompts.")
        compiled = self._open(device_ids)
        answers: CloudAI100ExecInfo = compiled.generate(
            prompts if inputs is None else inputs,
            images=images,
            processor=processor if processor is not None else self.processor if images is not None else None,
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            stream=stream,
            **sampling,
        )
        return answers

    def verify(  # type: ignore[override]
        self,
        inputs: Inputs = None,
        *,
        prompts: Inputs = None,
        images: Sequence[Any] | None = None,
        generation_len: int = 32,
        node_precision_out: str | os.PathLike[str] | None = None,
    ) -> ParityReport:
        """Compare the compiled package with Hugging Face: features of images, then tokens; store the report beside it.

        Args:
            inputs: a processor's output for one prompt; or prompts, where ``prompts`` is left out.
            prompts: texts or chats.
            images: as in :meth:`generate`.
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
        report = compare_media(self.model, compiled, self._batches(inputs, prompts, images), generation_len)
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})
        return report

    def _batches(self, inputs: Any, prompts: Any, images: Sequence[Any] | None) -> list[Mapping[str, Any]]:
        """A processor's output for each prompt."""
        from QEfficient.processing.processor import process

        if isinstance(inputs, Mapping):
            return [inputs]
        asked = prompts if inputs is None else inputs
        if asked is None or self.processor is None:
            raise LifecycleError("Give a processor's output, or prompts where the model has a processor.")
        texts = [asked] if isinstance(asked, str) else list(asked)
        pictured = with_images(texts, images or [[] for _ in texts], self.processor)
        pairs = zip(pictured.prompts, pictured.images, strict=True)
        return [process(self.processor, prompt, pictures) for prompt, pictures in pairs]


def _record(encoder: MediaEncoder) -> MediaEncoderRecord:
    from QEfficient.transformers.tasks.media_parts import output_names

    parts = (
        MediaPartRecord(
            graph=part.name,
            path=part.path,
            inputs=tuple(part.inputs),
            outputs=tuple(output_names(part)),
            form=part.form,
        )
        for part in encoder.parts
    )
    return MediaEncoderRecord(modality=encoder.modality, parts=tuple(parts), crops=encoder.tells_sizes)
