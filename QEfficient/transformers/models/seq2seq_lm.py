"""The auto class of sequence-to-sequence models: an encoder reads, a decoder generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.base.open_package import check_runtime
from QEfficient.contract import MODEL_GRAPH, Json, Plan, Specialization
from QEfficient.errors import ExportError, UnsupportedModel
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.causal_lm import DecoderRecord
from QEfficient.generation.tasks.seq2seq_lm import DECODER, ENCODER, Seq2SeqRecord
from QEfficient.options import Seq2SeqLMCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.generative_model import QEFFGenerativeModel, Stream

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from QEfficient.transformers.lowering.cache_spec import StateSpec
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.sequence_inputs import Padding

_SHORT = 16
"""Tokens: a text of as many shows nothing that a shorter one does not."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqPlan(Plan):
    """What decides the graphs of a sequence-to-sequence model."""

    padding: Padding
    """Of the encoder's input."""
    has_batch_index: bool = False
    """Whether ``batch_index`` picks the rows of the state; else row i of a batch is row i of the state."""
    rope_len: int | None = None
    """The output length that rotary scalings settle for, where they depend on it."""
    is_split: bool = False
    """Whether encoder and decoder are separate graphs."""
    text_len: int | None = None
    """Tokens of the encoder input to trace with, where the model's code looks at its length; then the maximum."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "padding": {**asdict(self.padding), "reason": ""}}


class QEFFAutoModelForSeq2SeqLM(QEFFGenerativeModel[Seq2SeqPlan, Seq2SeqLMCompileOptions]):
    """A model that turns one text into another: translation, summaries, and what else T5 and BART are for.

    Args:
        model: a Hugging Face sequence-to-sequence model, already loaded; :meth:`from_pretrained` loads one.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "seq2seq_lm"
    followed_entries = ("forced_bos_token_id", "forced_eos_token_id")
    options_class: ClassVar[type[Seq2SeqLMCompileOptions]] = Seq2SeqLMCompileOptions

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self._paddings: dict[int, Padding] = {}

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """An encoder, and a decoder with a language model's head."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as NAMES

        known = {*NAMES.values(), "T5WithLMHeadModel"}  # the name that T5's first checkpoints have
        return bool(getattr(config, "is_encoder_decoder", False)) and any(head in known for head in heads)

    def _padding(self, longest: int) -> Padding:
        """How the encoder takes inputs of different lengths; measured once for each maximum length."""
        from QEfficient.transformers.tasks.seq2seq_lm import measure_encoder

        if longest not in self._paddings:
            self._paddings[longest] = measure_encoder(self._loaded(), longest)
        return self._paddings[longest]

    def _plan(self, options: Seq2SeqLMCompileOptions, target: Target) -> Seq2SeqPlan:
        from QEfficient.transformers.lowering.apply import rope_depends_on_length

        return Seq2SeqPlan(
            lowering="retained",
            transforms=target.transforms(options),
            padding=self._padding(options.encoder_ctx_len),
            # Where any shape runs, one graph serves any number of slots.
            has_batch_index=options.full_batch_size is not None or not target.has_static_shapes,
            rope_len=options.ctx_len if rope_depends_on_length(self._loaded()) else None,
            is_split=not target.has_static_shapes,
        )

    def max_lens(self) -> dict[str, int]:
        from QEfficient.transformers.tasks.seq2seq_lm import max_lens

        return max_lens(self._loaded())

    def _resolve(self, plan: Seq2SeqPlan, options: Seq2SeqLMCompileOptions) -> Seq2SeqPlan:
        """One graph for inputs of any length, traced with a short one; where the model's code looks at the length, with
        one about as long as the longest."""

        def next_plan(tried: Seq2SeqPlan, error: ExportError) -> Seq2SeqPlan:
            longest = options.encoder_ctx_len
            if longest <= _SHORT or tried.text_len is not None:
                raise error
            # An odd one is no multiple of a block, so that the code that pads to one is in the graph.
            return tried.replaced(text_len=longest - 1 + longest % 2)

        return self.resolve_by_export(plan, {"encoder_ctx_len": options.encoder_ctx_len}, next_plan)

    def _graphs(self, plan: Seq2SeqPlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks import seq2seq_lm

        model, is_blank, text_len = self._loaded(), plan.padding.is_blank, plan.text_len
        if plan.is_split:
            return {
                ENCODER: seq2seq_lm.encoder_graph(model, is_blank, text_len),
                DECODER: seq2seq_lm.decoder_graph(model, plan.rope_len, plan.has_batch_index),
            }
        graph = seq2seq_lm.seq2seq_graph(
            model,
            plan.rope_len,
            continuous_batching=plan.has_batch_index,
            is_blank=is_blank,
            text_len=text_len,
        )
        return {MODEL_GRAPH: graph}

    def _specializations(
        self, plan: Seq2SeqPlan, options: Seq2SeqLMCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        from QEfficient.transformers.lowering.cache_spec import ENCODER_CTX_LEN, axis_sizes
        from QEfficient.transformers.tasks.seq2seq_lm import specializations

        sizes = axis_sizes(self._decoder_specs(), options.ctx_len)
        sizes[ENCODER_CTX_LEN] = options.encoder_ctx_len
        if plan.has_batch_index:
            sizes["full_batch_size"] = options.num_slots
        shapes = specializations(options.num_slots, sizes, continuous_batching=plan.has_batch_index)
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

    def _session(self, plan: Seq2SeqPlan, options: Seq2SeqLMCompileOptions, target: Target) -> Seq2SeqRecord:
        from QEfficient.transformers.lowering.cache_spec import windows

        encoder: Any = self._loaded().get_encoder()
        reader = encoder if hasattr(encoder, "get_input_embeddings") else self._loaded()
        limits = self.max_lens()
        decoder = DecoderRecord(
            num_slots=options.num_slots,
            ctx_len=options.ctx_len,
            chunk_len=1,
            vocab_size=self._loaded().get_output_embeddings().weight.shape[0],
            state_rows=options.num_slots,
            row_axis="full_batch_size" if plan.has_batch_index else "batch_size",
            windows=windows(self._decoder_specs()),
            max_ctx_len=plan.rope_len or limits.get("ctx_len"),
        )
        return Seq2SeqRecord(
            decoder=decoder,
            encoder_ctx_len=options.encoder_ctx_len,
            # Traced for a length, the graph is checked for nothing longer than it was compiled for.
            max_encoder_ctx_len=limits.get("encoder_ctx_len") if plan.text_len is None else options.encoder_ctx_len,
            encoder_vocab_size=reader.get_input_embeddings().weight.shape[0],
            decoder_start_token_id=self._decoder_start(),
            hidden_size=getattr(encoder, "config", self.config).get_text_config().hidden_size,
            why_not_padded=plan.padding.reason if plan.padding.side is None else None,
        )

    def _decoder_start(self) -> int:
        """The token that every output begins with, as transformers finds it."""
        generation = self._loaded().generation_config
        for token in (generation.decoder_start_token_id, generation.bos_token_id):
            if token is not None:
                return int(token[0] if isinstance(token, list) else token)
        raise UnsupportedModel(
            f"{self.model_name} does not say which token an output starts with: set decoder_start_token_id in the "
            "checkpoint's generation_config.json."
        )

    def generate(
        self,
        prompts: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: Stream = False,
        **options: Any,
    ) -> CloudAI100ExecInfo:
        """Answer texts with the compiled package.

        Args:
            prompts: text, a list of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the model's.
            generation_len: most new tokens, for all prompts or one number each; default: the checkpoint's
                ``max_new_tokens``, else what fits ``ctx_len``.
            stream: True prints the text as it comes; a function is called with each piece.
            options: ``forced_bos_token_id``, the answer's first token, which in multilingual models is the language;
                ``forced_eos_token_id``, its last; and those of sampling: temperature, top_k, top_p, min_p,
                repetition_penalty, seed, do_sample. One value or one a prompt.

        Returns:
            Texts and ids in the prompts' order, and how fast it was.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a prompt is empty or longer than ``encoder_ctx_len``.
            OptionError: an unknown or impossible option.
        """
        check_runtime(runtime_ai100)
        compiled = self._open(device_ids)
        answers: CloudAI100ExecInfo = compiled.generate(
            prompts,
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            stream=stream,
            **options,
        )
        return answers
