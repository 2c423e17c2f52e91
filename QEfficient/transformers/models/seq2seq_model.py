"""What the auto classes share whose models have an encoder that reads and a decoder that generates."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from QEfficient.contract import MODEL_GRAPH, Plan, Specialization
from QEfficient.errors import UnsupportedModel
from QEfficient.generation.tasks.causal_lm import DecoderRecord
from QEfficient.generation.tasks.seq2seq_lm import DECODER, ENCODER
from QEfficient.options import EncoderDecoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.generative_model import QEFFGenerativeModel

if TYPE_CHECKING:
    from QEfficient.transformers.lowering.cache_spec import StateSpec
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.encoder_sources import EncoderSource
    from QEfficient.transformers.tasks.graph_spec import TaskGraph


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderPlan(Plan):
    """What decides the graphs of an encoder and a decoder."""

    has_batch_index: bool = False
    """Whether ``batch_index`` picks the rows of the state; else row i of a batch is row i of the state."""
    rope_len: int | None = None
    """The output length that rotary scalings settle for, where they depend on it."""
    is_split: bool = False
    """Whether encoder and decoder are separate graphs."""


PlanT = TypeVar("PlanT", bound=EncoderDecoderPlan)
OptionsT = TypeVar("OptionsT", bound=EncoderDecoderCompileOptions)


class QEFFEncoderDecoderModel(QEFFGenerativeModel[PlanT, OptionsT], Generic[PlanT, OptionsT]):
    """A model with an encoder that reads and a decoder that generates."""

    @abstractmethod
    def _encoder_source(self, plan: PlanT) -> EncoderSource:
        """What the encoder reads."""

    def _plan_ingredients(self, options: OptionsT, target: Target) -> dict[str, Any]:
        """What plans of all such models have."""
        from QEfficient.transformers.lowering.rope import rope_depends_on_length

        return {
            "lowering": "retained",
            "transforms": target.transforms(options),
            # Where any shape runs, one graph serves any number of slots.
            "has_batch_index": options.full_batch_size is not None or not target.has_static_shapes,
            "rope_len": options.ctx_len if rope_depends_on_length(self._loaded()) else None,
            "is_split": not target.has_static_shapes,
        }

    def max_lens(self) -> dict[str, int]:
        from QEfficient.transformers.tasks.seq2seq_lm import max_lens

        return max_lens(self._loaded())

    def _graphs(self, plan: PlanT) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks import seq2seq_lm

        model, source = self._loaded(), self._encoder_source(plan)
        if plan.is_split:
            return {
                ENCODER: seq2seq_lm.encoder_graph(model, source),
                DECODER: seq2seq_lm.decoder_graph(model, plan.rope_len, source, plan.has_batch_index),
            }
        return {MODEL_GRAPH: seq2seq_lm.seq2seq_graph(model, plan.rope_len, source, plan.has_batch_index)}

    def _shapes(
        self, plan: PlanT, options: OptionsT, encoder_ctx_len: int, **source: Any
    ) -> dict[str, tuple[Specialization, ...]]:
        """The shapes of the graphs; ``source`` as of :func:`specializations`."""
        from QEfficient.transformers.lowering.cache_spec import ENCODER_CTX_LEN, axis_sizes
        from QEfficient.transformers.tasks.seq2seq_lm import specializations

        sizes = axis_sizes(self._decoder_specs(), options.ctx_len)
        sizes[ENCODER_CTX_LEN] = encoder_ctx_len
        if plan.has_batch_index:
            sizes["full_batch_size"] = options.num_slots
        shapes = specializations(options.num_slots, sizes, continuous_batching=plan.has_batch_index, **source)
        return {ENCODER: shapes, DECODER: shapes} if plan.is_split else {MODEL_GRAPH: shapes}

    def _decoder_specs(self) -> list[StateSpec]:
        from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs

        return encoder_decoder_specs(self._loaded())[0]

    def state_specs(self) -> list[StateSpec]:
        from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs

        decoder, cross = encoder_decoder_specs(self._loaded())
        return decoder + cross

    def choose_lowering(self, target: Target) -> LoweringChoice:
        from QEfficient.transformers.lowering.select import LoweringChoice

        self.state_specs()
        return LoweringChoice("retained")

    def _decoder_record(self, plan: PlanT, options: OptionsT) -> DecoderRecord:
        from QEfficient.transformers.lowering.cache_spec import windows

        return DecoderRecord(
            num_slots=options.num_slots,
            ctx_len=options.ctx_len,
            chunk_len=1,
            vocab_size=self._loaded().get_output_embeddings().weight.shape[0],
            state_rows=options.num_slots,
            row_axis="full_batch_size" if plan.has_batch_index else "batch_size",
            windows=windows(self._decoder_specs()),
            max_ctx_len=plan.rope_len or self.max_lens().get("ctx_len"),
        )

    def _encoder_width(self) -> int:
        """Features of a hidden state of the encoder."""
        encoder: Any = self._loaded().get_encoder()
        width: int = getattr(encoder, "config", self.config).get_text_config().hidden_size
        return width

    def _decoder_start(self) -> int:
        """The token that every output begins with, as transformers looks for it."""
        generation = self._loaded().generation_config
        for token in (generation.decoder_start_token_id, generation.bos_token_id):
            if token is not None:
                return int(token[0] if isinstance(token, list) else token)
        raise UnsupportedModel(
            f"{self.model_name} does not say which token an output starts with: set decoder_start_token_id in the "
            "checkpoint's generation_config.json."
        )
