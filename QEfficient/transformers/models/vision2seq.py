"""The auto class of models with an encoder that reads images, and text in some, and a decoder that generates."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.contract import Specialization
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.media import MediaLayout
from QEfficient.generation.tasks.seq2seq_lm import DECODER, ENCODER
from QEfficient.generation.tasks.vision2seq import Vision2SeqRecord
from QEfficient.option_types import Vision2SeqCompileArgs
from QEfficient.options import Vision2SeqCompileOptions
from QEfficient.store.artifacts import update_body
from QEfficient.targets import Target
from QEfficient.transformers.models.image_text_to_text import Inputs, QEFFAutoModelForImageTextToText
from QEfficient.transformers.models.media_encoders import described, part_graphs, part_shapes, parts_of, sharing_cores
from QEfficient.transformers.models.seq2seq_model import EncoderDecoderPlan, QEFFEncoderDecoderModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from QEfficient.transformers.tasks.encoder_sources import EncoderSource
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder
    from QEfficient.transformers.tasks.vision2seq import SeeingEncoder
    from QEfficient.verify.parity import ParityReport

_SAMPLES = ((896, 448), (336, 672), (1400, 1200), (64, 48))
"""Width and height of the images of prompts that show what an encoder takes, and what varies with them."""
_TEXT_LEN = 128
"""Tokens of a text beside the states of an image, where nobody says how many there will be."""


@dataclass(frozen=True, kw_only=True)
class Vision2SeqPlan(EncoderDecoderPlan):
    """What decides the graphs of an encoder that sees and its decoder."""

    encoder: str
    """What the encoder takes, as text."""
    encoders: tuple[str, ...] = ()
    """What the graphs of each encoder before it are, as text."""


class QEFFAutoModelForVision2Seq(
    QEFFEncoderDecoderModel[Vision2SeqPlan, Vision2SeqCompileOptions], QEFFAutoModelForImageTextToText
):
    """A model that answers images with text: TrOCR, Donut, Pix2Struct, Florence-2 and others.

    ``QEFFAutoModelForImageTextToText`` makes one of these where a checkpoint has an encoder and a decoder. Where the
    encoder reads no text, a prompt is what the answer begins with.

    Args:
        model: a Hugging Face model, already loaded; :meth:`from_pretrained` loads one.
        kv_offload: as of ``QEFFAutoModelForImageTextToText``.
        continuous_batching: as of ``QEFFAutoModelForImageTextToText``.
        processor: reads texts and images; put into the package.
        tokenizer: default: the processor's.
    """

    task = "vision2seq"
    options_class: ClassVar[type[Vision2SeqCompileOptions]] = Vision2SeqCompileOptions  # type: ignore[assignment]
    _measured: tuple[SeeingEncoder, dict[str, MediaEncoder]] | None = None

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[Vision2SeqCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)  # type: ignore[misc]

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model of transformers' table with an encoder and a decoder."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

        return bool(getattr(config, "is_encoder_decoder", False)) and any(head in NAMES.values() for head in heads)

    def _check_direction(self) -> None:
        """The encoder attends in both directions, whatever the config says of the decoder."""

    def _with_defaults(  # type: ignore[override]
        self, options: Vision2SeqCompileOptions, target: Target, passed: Collection[str]
    ) -> Vision2SeqCompileOptions:
        return options  # an answer's length is no question of how much context fits into memory

    def _adds_media(self) -> bool:
        return False

    # What the graphs are.

    def _read(self) -> tuple[SeeingEncoder, dict[str, MediaEncoder]]:
        """What the encoder takes, and the encoders of images before it."""
        from QEfficient.transformers.tasks.media_parts import media_encoder
        from QEfficient.transformers.tasks.media_tokens import media_tokens
        from QEfficient.transformers.tasks.vision2seq import seeing_encoder

        if self._measured is None:
            model, samples = self._loaded(), [self._sample("image", size) for size in _SAMPLES]
            images = media_encoder(model, "image", samples)
            encoders = {} if images is None else {"image": images}
            tokens = media_tokens(model, encoders, samples[0]) if encoders else None
            if tokens is not None:
                tokens = replace(tokens, token_types=(), num_positions=0)
            self._measured = seeing_encoder(model, samples, tokens), encoders
        return self._measured

    def _seen(self) -> Any:
        encoder, encoders = self._read()
        return encoders, encoder.tokens, ()

    def _encoder_source(self, plan: Vision2SeqPlan) -> EncoderSource:
        return self._read()[0].source

    def max_lens(self) -> dict[str, int]:
        return QEFFEncoderDecoderModel.max_lens(self)

    def _check_lens(self, options: Vision2SeqCompileOptions) -> None:
        limits = self.max_lens()
        for name in ("ctx_len", "encoder_ctx_len"):
            value, limit = getattr(options, name), limits.get(name)
            if value is not None and limit is not None and value > limit:
                raise CapacityError(
                    f"{name}={value} is beyond the {limit} positions that {self.model_name} was made for. Give "
                    f"{name}={limit} or less."
                )

    def check_lowering(self, **options: object) -> Self:
        if self.processor is not None:
            return super().check_lowering(**options)
        self._parse(options)  # without a processor nothing is known of what the encoder reads
        return self

    check_lowering.__doc__ = QEFFAutoModelForImageTextToText.check_lowering.__doc__

    def _plan(self, options: Vision2SeqCompileOptions, target: Target) -> Vision2SeqPlan:  # type: ignore[override]
        encoder, encoders = self._read()
        shared = {**self._plan_ingredients(options, target), "is_split": True}
        return Vision2SeqPlan(**shared, encoder=encoder.ingredients(), encoders=described(encoders.values()))

    def _graphs(self, plan: Vision2SeqPlan) -> dict[str, TaskGraph]:  # type: ignore[override]
        from QEfficient.transformers.tasks import seq2seq_lm
        from QEfficient.transformers.tasks.vision2seq import seeing_graph

        model, (encoder, encoders) = self._loaded(), self._read()
        return {
            DECODER: seq2seq_lm.decoder_graph(model, plan.rope_len, encoder.source, plan.has_batch_index),
            ENCODER: seeing_graph(model, encoder, self.max_lens().get("encoder_ctx_len")),
            **part_graphs(model, encoders.values()),
        }

    def _specializations(  # type: ignore[override]
        self, plan: Vision2SeqPlan, options: Vision2SeqCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        encoder, encoders = self._read()
        length = self._encoder_ctx_len(options)
        decoder = self._shapes(plan, options, length)[DECODER]
        sizes = [(size, size) for size in options.img_sizes] or [_SAMPLES[0]]
        samples = [self._sample("image", size) for size in sizes] if target.has_static_shapes else []
        symbols = [self._encoder_sizes(encoder, sample, length) for sample in samples]
        unlike = {str(each): each for each in symbols}.values()
        shapes = tuple(Specialization(name="Encoder", symbols=each) for each in unlike)
        parts = {n: s for each in encoders.values() for n, s in part_shapes(self._loaded(), each, samples).items()}
        return {DECODER: decoder, ENCODER: shapes, **parts}

    def _encoder_sizes(self, encoder: SeeingEncoder, sample: Mapping[str, Any], length: int) -> dict[str, int]:
        """Sizes of the axes of the encoder's graph for an image, and for states ``length`` where it reads text."""
        from QEfficient.transformers.tasks.vision2seq import PLACES_AXIS, axis_sizes

        sizes = axis_sizes(self._loaded(), encoder, sample)
        if encoder.per_place:
            sizes |= {PLACES_AXIS: length - encoder.num_others, "num_states": length}
        if encoder.tokens is not None:
            sizes["vision_size"] = length
        return sizes or {"batch_size": 1}

    def _encoder_ctx_len(self, options: Vision2SeqCompileOptions) -> int:
        """States of the encoder that the decoder sees: of the compiled images, or of a short text and an image."""
        encoder, _ = self._read()
        if options.encoder_ctx_len is not None:
            return options.encoder_ctx_len
        usual = max(encoder.num_states)
        if "input_ids" not in encoder.inputs:
            return usual
        return min(usual + _TEXT_LEN, self.max_lens().get("encoder_ctx_len", usual + _TEXT_LEN))

    def _graph_options(  # type: ignore[override]
        self, name: str, options: Vision2SeqCompileOptions, target: Target
    ) -> Vision2SeqCompileOptions:
        num_encoders = 1 + len(parts_of(self._read()[1].values()))
        return sharing_cores(options, target, num_encoders, is_encoder=name != DECODER)

    def _decoder_specs(self) -> Any:
        return self._both_specs()[0]

    def state_specs(self) -> Any:
        decoder, cross = self._both_specs()
        return decoder + cross

    def _both_specs(self) -> Any:
        from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs

        return encoder_decoder_specs(self._loaded(), self._read()[0].width)

    def _why_not_padded(self, text_len: int) -> str | None:
        """Why tokens or patches cannot be padded; None: they can."""
        from QEfficient.transformers.tasks.seq2seq_lm import measure_encoder

        encoder, _ = self._read()
        if "input_ids" not in encoder.inputs:
            return None
        if encoder.tokens is None:
            return "it counts the positions of its patches from the end of the text"
        padding = measure_encoder(self._loaded(), text_len)
        if padding.is_blank:
            return "its encoder mixes padding into the states of tokens"
        return padding.reason if padding.side is None else None

    def _session(  # type: ignore[override]
        self, plan: Vision2SeqPlan, options: Vision2SeqCompileOptions, target: Target
    ) -> Vision2SeqRecord:
        encoder, encoders = self._read()
        length = self._encoder_ctx_len(options)
        tokens, is_padded = encoder.tokens, bool(encoder.per_place) and target.has_static_shapes
        layout = MediaLayout(
            placeholders={} if tokens is None else dict(tokens.placeholders),
            width=1 if tokens is None else tokens.width,
            has_pooled=tokens is not None,
        )
        return Vision2SeqRecord(
            decoder=self._decoder_record(plan, options),
            layout=layout,
            encoders=self._encoder_records(encoders, target),
            inputs=tuple(encoder.inputs),
            per_place=encoder.per_place,
            encoder_ctx_len=length,
            hidden_size=encoder.width,
            decoder_start_token_id=self._decoder_start(),
            num_places=length - encoder.num_others if is_padded else None,
            why_not_padded=self._why_not_padded(length) if is_padded else None,
        )

    def verify(  # type: ignore[override]
        self,
        inputs: Inputs = None,
        *,
        prompts: Inputs = None,
        images: Sequence[Any] | None = None,
        generation_len: int = 32,
        node_precision_out: str | os.PathLike[str] | None = None,
    ) -> ParityReport:
        """Compare the compiled package with Hugging Face: states of the encoder, then tokens; store the report beside
        it. Arguments and errors as of ``QEFFAutoModelForImageTextToText.verify``."""
        from QEfficient.verify.vision2seq_parity import compare_seen

        if node_precision_out is not None:
            raise OptionError(
                "node_precision_out is for causal language models: an encoder that sees is compared as it is."
            )
        self._loaded()
        compiled = self._open()
        report = compare_seen(self.model, compiled, self._batches(inputs, prompts, images), generation_len)
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})
        return report

    def evaluate(self, *args: object, **options: object) -> NoReturn:
        """Not there: perplexity is of models that continue a text.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"evaluate() measures models that continue a text, and {self.model_name} answers to images.")
