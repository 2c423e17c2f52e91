"""The auto class of causal LMs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.base.open_package import check_runtime
from QEfficient.contract import MODEL_GRAPH, ROPE_LENS, LoweringName, Plan, Specialization
from QEfficient.errors import LifecycleError, OptionError, UnsupportedModel
from QEfficient.generation.prompts import choose_prompts, encode_prompts
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.causal_lm import CompiledCausalLM, DecoderRecord
from QEfficient.generation.tokenizer import ForeignTokenizer
from QEfficient.generation_options import CallArguments, GenerationOptions
from QEfficient.option_docs import lists_options
from QEfficient.option_types import CausalLMCompileArgs, GenerateArgs
from QEfficient.options import CausalLMCompileOptions, require_bool
from QEfficient.qaic_config import QaicConfig
from QEfficient.store.artifacts import update_body
from QEfficient.targets import Target
from QEfficient.transformers.models.default_context import default_ctx_len
from QEfficient.transformers.models.generative_model import QEFFGenerativeModel, Stream

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.generation.prompts import TokenIds
    from QEfficient.transformers.lowering.cache_spec import StateSpec
    from QEfficient.transformers.lowering.media import MediaTokens
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.verify.parity import ParityReport
    from QEfficient.verify.perplexity import PerplexityReport

logger = logging.getLogger(__name__)

_RECURRENT_CHUNK_LEN = 64
"""Unless another length is asked for: what a recurrence does within a chunk grows with its square."""


@dataclass(frozen=True, kw_only=True)
class CausalLMPlan(Plan):
    """What decides the graph of a causal LM."""

    has_batch_index: bool = False
    """Whether ``batch_index`` picks the rows of the state; else row i of a batch is row i of the state."""
    rope_len: int | None = None
    """The context that rotary scalings settle for, where they depend on it."""
    has_rope_lens: bool = False
    """Whether the length of each token's sequence comes in, for rotary embeddings that depend on it (``rope_lens``)."""
    has_context_lens: bool = False
    """Whether a step may compute over a part of the context (``comp_ctx_lengths``)."""
    has_num_logits: bool = False
    """Whether the logits of several tokens of a row come out (``num_logits_to_keep``)."""
    max_step_tokens: int | None = None
    """Tokens that a step's recurrences are unrolled for; None where no layer is recurrent."""
    traced_len: int | None = None
    """The context's length, where the graph holds for one alone."""
    counts_rows: bool = False
    """Whether the graph counts the rows of features that its steps use up (``image_idx``)."""
    has_lora_ids: bool = False
    """Whether each row selects its adapter (``lora_ids``)."""
    supplied: tuple[tuple[str, int, int, int], ...] = ()
    """Layers whose adapter's matrices are inputs: path, input features, rank, output features."""
    keeps_supplied: bool = False
    """Whether the device keeps these inputs as state."""


class QEFFAutoModelForCausalLM(QEFFGenerativeModel[CausalLMPlan, CausalLMCompileOptions]):
    """A model that continues text.

    Args:
        model: a Hugging Face causal LM, already loaded; :meth:`from_pretrained` loads one.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        qaic_config: upstream's settings: see :class:`QEfficient.qaic_config.QaicConfig`.
        max_seq_len_cached: upstream's length of tables of positions; no effect, they are made for ``ctx_len``.
        tokenizer: used by :meth:`generate` and put into the package.

    Raises:
        UnsupportedModel: tokens of the model attend to later ones, as in a masked language model.
    """

    task = "causal_lm"
    options_class: ClassVar[type[CausalLMCompileOptions]] = CausalLMCompileOptions
    load_arguments: ClassVar[tuple[str, ...]] = ("continuous_batching", "qaic_config", "max_seq_len_cached")
    qaic_config = QaicConfig()
    """Settings that the model was loaded with."""

    def __init__(
        self,
        model: Any,
        continuous_batching: bool = False,
        qaic_config: Mapping[str, Any] | None = None,
        max_seq_len_cached: int | None = None,
        *,
        tokenizer: Any | None = None,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self.qaic_config = QaicConfig.read(qaic_config)
        for remark in self.qaic_config.remarks:
            logger.warning("%s", remark)
        if max_seq_len_cached is not None:
            logger.warning("max_seq_len_cached: no effect, tables of positions are made for ctx_len.")
        require_bool("continuous_batching", continuous_batching)
        self._check_direction()
        self.continuous_batching = continuous_batching

    def _check_direction(self) -> None:
        """
        Raises:
            UnsupportedModel: tokens of the model attend to later ones.
        """
        _check_causal(self._loaded())

    @classmethod
    def hf_auto_class(cls) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A causal LM by its name, or one that can also see (Gemma 3's is ForConditionalGeneration)."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

        return any(head.endswith(("ForCausalLM", "LMHeadModel")) or head in NAMES.values() for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        has_head = hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None
        return has_head and not _is_bidirectional(model)

    def _plan(self, options: CausalLMCompileOptions, target: Target) -> CausalLMPlan:
        from QEfficient.transformers.lowering.infer_cache_spec import depends_on_length
        from QEfficient.transformers.lowering.rope import rope_depends_on_length, rope_remark, takes_lens

        if self.continuous_batching and options.full_batch_size is None:
            raise OptionError("The model was loaded with continuous_batching=True: compile() needs full_batch_size.")
        has_rope_lens = not target.has_static_shapes and takes_lens(self._loaded())
        if not has_rope_lens and (remark := rope_remark(self._loaded(), options.ctx_len)) is not None:
            logger.warning("%s: %s", self.source_name, remark)
        depends = not has_rope_lens and rope_depends_on_length(self._loaded())
        choice = self._choose(target, options.lowering)
        # Where any shape runs, one graph serves any number of slots.
        picks_rows = options.full_batch_size is not None or not target.has_static_shapes
        return CausalLMPlan(
            lowering=choice.lowering,
            transforms=target.transforms(options),
            has_batch_index=choice.lowering == "retained" and picks_rows,
            rope_len=options.ctx_len if depends else None,
            has_rope_lens=has_rope_lens,
            has_context_lens=target.has_static_shapes and options.has_comp_ctx_lengths,
            has_num_logits=options.num_speculative_tokens is not None,
            max_step_tokens=self._max_step_tokens(options, target),
            traced_len=options.ctx_len if depends_on_length(self._loaded(), self.state_specs()) else None,
        )

    def _accepted(self, passed: dict[str, Any]) -> dict[str, Any]:
        config = QaicConfig.read(passed.pop("qaic_config")) if "qaic_config" in passed else self.qaic_config
        if passed.get("num_speculative_tokens") == 0 and config.speculative_model_type is None:
            del passed["num_speculative_tokens"]  # of a model that was not loaded to check drafts: no drafts
        return {**config.compile_defaults(passed.get("ctx_len")), **passed}

    def _with_defaults(
        self, options: CausalLMCompileOptions, target: Target, passed: Collection[str]
    ) -> CausalLMCompileOptions:
        if "ctx_len" in passed or options.has_comp_ctx_lengths:
            return options
        lowering = self._choose(target, options.lowering).lowering
        ctx_len = default_ctx_len(self._loaded(), self.state_specs(), target, lowering, options.num_slots)
        logger.info("ctx_len: %d tokens, prompt and answer together.", ctx_len)
        return replace(options, ctx_len=ctx_len)

    def _max_step_tokens(self, options: CausalLMCompileOptions, target: Target) -> int | None:
        from QEfficient.transformers.tasks.step_inputs import SAMPLE_SEQ_LEN

        if not self._is_recurrent():
            return None
        if options.num_speculative_tokens is not None:
            raise UnsupportedModel(
                f"num_speculative_tokens={options.num_speculative_tokens}: {self.model_name} has recurrent layers, "
                "from whose state a rejected token cannot be taken back. Leave the option out."
            )
        return 1 << (max(self._chunk_len(options, target), SAMPLE_SEQ_LEN) - 1).bit_length()

    def max_lens(self) -> dict[str, int]:
        from QEfficient.transformers.tasks.causal_lm import max_ctx_len

        limit = max_ctx_len(self._loaded())
        return {} if limit is None else {"ctx_len": limit}

    def _graphs(self, plan: CausalLMPlan) -> dict[str, TaskGraph]:
        return {MODEL_GRAPH: self._language_graph(plan)}

    def _language_graph(self, plan: CausalLMPlan, media: MediaTokens | None = None) -> TaskGraph:
        from QEfficient.transformers.tasks import causal_lm
        from QEfficient.transformers.tasks.rope_inputs import with_rope_lens

        if plan.lowering == "paged":
            graph = causal_lm.paged_graph(self._loaded(), plan.rope_len, media)
            return with_rope_lens(graph) if plan.has_rope_lens else graph
        graph = causal_lm.retained_graph(
            self._loaded(),
            plan.rope_len,
            continuous_batching=plan.has_batch_index,
            with_context_lens=plan.has_context_lens,
            with_num_logits=plan.has_num_logits,
            most_tokens=plan.max_step_tokens,
            traced_len=plan.traced_len,
            media=media,
            counts_rows=plan.counts_rows,
        )
        return with_rope_lens(graph) if plan.has_rope_lens else graph

    def _specializations(
        self, plan: CausalLMPlan, options: CausalLMCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        from QEfficient.transformers.tasks.causal_lm import specializations

        if plan.lowering == "paged":
            return {MODEL_GRAPH: ()}
        shapes = specializations(
            options,
            self._chunk_len(options, target),
            self.state_sizes(plan, options),
            continuous_batching=plan.has_batch_index,
        )
        return {MODEL_GRAPH: shapes}

    def _chunk_len(self, options: CausalLMCompileOptions, target: Target) -> int:
        usual = min(target.prefill_seq_len, _RECURRENT_CHUNK_LEN) if self._is_recurrent() else target.prefill_seq_len
        return min(options.prefill_seq_len or usual, options.ctx_len)

    def _is_recurrent(self) -> bool:
        return any(spec.is_recurrent for spec in self.state_specs())

    def state_specs(self) -> list[StateSpec]:
        from QEfficient.transformers.lowering.infer_cache_spec import state_specs

        return state_specs(self._loaded())

    def choose_lowering(self, target: Target) -> LoweringChoice:
        return self._choose(target)

    def _choose(self, target: Target, forced: LoweringName | None = None) -> LoweringChoice:
        from QEfficient.transformers.lowering.select import choose_lowering

        return choose_lowering(self._loaded(), target, forced)

    def state_sizes(self, plan: CausalLMPlan, options: CausalLMCompileOptions) -> dict[str, int]:
        """Sizes of the state's named axes."""
        from QEfficient.transformers.lowering.cache_spec import axis_sizes

        sizes = axis_sizes(self.state_specs(), options.ctx_len)
        if plan.traced_len is not None:
            sizes.pop("ctx_len")  # fixed in the graph
        if plan.has_batch_index:
            sizes["full_batch_size"] = options.kv_cache_batch_size or options.num_slots
        return sizes

    def _session(self, plan: CausalLMPlan, options: CausalLMCompileOptions, target: Target) -> DecoderRecord:
        from QEfficient.transformers.lowering.cache_spec import windows
        from QEfficient.transformers.lowering.rope import restart_len

        fixed = plan.rope_len or plan.traced_len
        return DecoderRecord(
            num_slots=options.num_slots,
            ctx_len=options.ctx_len,
            chunk_len=self._chunk_len(options, target),
            vocab_size=self.config.get_text_config(decoder=True).vocab_size,
            state_rows=options.kv_cache_batch_size or options.num_slots,
            row_axis="full_batch_size" if plan.has_batch_index else "batch_size",
            windows=windows(self.state_specs()),
            min_ctx_len=plan.traced_len or 1,
            max_ctx_len=fixed or self.max_lens().get("ctx_len"),
            restart_len=restart_len(self._loaded()) if plan.has_rope_lens else None,
        )

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[CausalLMCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)

    @lists_options(GenerationOptions, CallArguments)
    def generate(
        self,
        inputs: Any = None,
        texts: Any = None,
        device_id: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        prompts: Any = None,
        prompts_txt_file_path: PathLike | None = None,
        device_ids: Sequence[int] | None = None,
        input_ids: Any = None,
        attention_mask: Any = None,
        tokenizer: Any | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: Stream = False,
        **options: Unpack[GenerateArgs],
    ) -> CloudAI100ExecInfo:
        """Answer prompts with the compiled package.

        Args:
            inputs: prompts: text, a list of texts, lists of token ids, a tokenizer's output, or chat messages.
            texts: the prompts, where the first argument is a tokenizer, as upstream has it.
            device_id: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            prompts: prompts by name.
            prompts_txt_file_path: a file with one prompt per line, in place of prompts.
            device_ids: another name of ``device_id``.
            input_ids: with ``attention_mask``, the form of Hugging Face's ``generate(**inputs)``.
            attention_mask: 0 where a row is padding.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens, for all prompts or one per prompt; default: the
                checkpoint's ``max_new_tokens`` or ``max_length``, else what fits ``ctx_len``.
            stream: True prints the text as it comes; a function is called with each piece.
            options: see :class:`GenerationOptions`, each one value or one for each prompt; and :class:`CallArguments`.

        Returns:
            Texts and ids in the prompts' order, and how fast it was.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a prompt is empty or does not fit.
            OptionError: an unknown or impossible option.
        """
        check_runtime(runtime_ai100)
        prompts, tokenizer = choose_prompts(inputs, texts, prompts, tokenizer, prompts_txt_file_path)
        if input_ids is not None:
            if prompts is not None:
                raise OptionError("Give either prompts or input_ids.")
            prompts = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self._open(device_id if device_ids is None else device_ids).generate(
            prompts,
            tokenizer=self._text_tokenizer(tokenizer),
            generation_len=generation_len,
            stream=stream,
            **self._request_options({**options}),
        )

    def verify(
        self,
        prompts: Any,
        *,
        generation_len: int = 32,
        node_precision_out: str | os.PathLike[str] | None = None,
    ) -> ParityReport:
        """Compare the compiled package with Hugging Face, token by token, and store the report beside the package.

        For a card's package it also says what fp16 and the package's number formats do inside the model: the graph
        is run on the simulator, in float32 and with the card's numerics.

        Args:
            prompts: as in :meth:`generate`.
            generation_len: tokens to compare for each prompt.
            node_precision_out: where to write the nodes that must stay in float32, if fp16 overflows; compile with
                ``node_precision_info`` as this file then.

        Raises:
            LifecycleError: nothing was compiled yet, or the model was opened from a package.
            CapacityError: a prompt is empty or does not fit.
            OptionError: ``node_precision_out`` for another target than a card, or in no folder.
        """
        from QEfficient.verify import numeric_check
        from QEfficient.verify.parity import compare

        self._loaded()
        model, compiled = self.model, self._open()
        out = Path(node_precision_out) if node_precision_out is not None else None
        numeric_check.check_output(compiled.target, out)
        prompt_ids = compiled.encode(prompts, self.tokenizer)
        report = compare(model, compiled, prompt_ids, generation_len)
        if compiled.target.has_card_numerics:
            numerics = numeric_check.examine_package(self, compiled, prompt_ids, out)
            report = report.with_numerics(numerics) if numerics is not None else report
        report = replace(report, remark=self._rope_remark(compiled))
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})
        return report

    def _rope_remark(self, compiled: CompiledCausalLM) -> str | None:
        """Which texts get another rotary embedding than in Hugging Face."""
        from QEfficient.transformers.lowering.rope import rope_remark

        if ROPE_LENS in compiled.body.graph.inputs:
            return None
        return rope_remark(self._loaded(), compiled.record.ctx_len)

    def evaluate(
        self,
        text: str | TokenIds,
        *,
        ctx_len: int | None = None,
        stride: int | None = None,
        max_tokens: int | None = None,
        reference: bool = False,
    ) -> PerplexityReport:
        """Perplexity on a text, in windows as in Hugging Face's guide.

        Args:
            text: a text, or its token ids.
            ctx_len: maximum tokens of a window; default: the package's ``ctx_len``.
            stride: tokens between the starts of two windows; default: ``ctx_len``, so that windows do
                not overlap. A smaller one gives tokens more context and takes longer.
            max_tokens: use only the first so many tokens of the text.
            reference: evaluate Hugging Face's model in float32 instead of the package.

        Raises:
            LifecycleError: nothing was compiled yet, requests are running on the package, or the model was opened
                from a package and has no reference.
            CapacityError: ``ctx_len`` is beyond the package's, or beyond the model's positions.
            OptionError: the text has fewer than two tokens, or a length does not fit.
            NumericError: the model gives no numbers.
        """
        from QEfficient.verify import perplexity

        require_bool("reference", reference)
        perplexity.check_lens(ctx_len, stride, max_tokens)
        if reference:
            return self._evaluate_reference(text, ctx_len, stride, max_tokens)
        return perplexity.measure_package(
            self._open(), text, tokenizer=self.tokenizer, ctx_len=ctx_len, stride=stride, max_tokens=max_tokens
        )

    def _evaluate_reference(
        self, text: str | TokenIds, ctx_len: int | None, stride: int | None, max_tokens: int | None
    ) -> PerplexityReport:
        from QEfficient.verify.perplexity import encode_one, measure
        from QEfficient.verify.reference import in_float32, model_scores

        self._loaded()
        usual = self._open().record.ctx_len if self.qpc_path is not None else self.options_class().ctx_len
        options = self.options_class(ctx_len=ctx_len or usual)
        self._check_lens(options)
        vocab_size = self.config.get_text_config(decoder=True).vocab_size
        ids = encode_one(text, lambda texts: encode_prompts(texts, self._foreign_tokenizer), vocab_size)
        scores = model_scores(in_float32(self.model))
        return measure(scores, ids, ctx_len=options.ctx_len, stride=stride, max_tokens=max_tokens)

    def _foreign_tokenizer(self) -> ForeignTokenizer:
        if self.tokenizer is None:
            raise LifecycleError("The model has no tokenizer: give token ids, or load a checkpoint that has one.")
        return ForeignTokenizer(self.tokenizer)


def _is_bidirectional(model: PreTrainedModel) -> bool:
    """Whether it is an encoder that its config does not make a decoder: what follows a text is no output of it."""
    says_no = not getattr(model.config, "is_decoder", True)
    return says_no and not all(getattr(module, "is_decoder", True) for module in model.modules())


def _check_causal(model: PreTrainedModel) -> None:
    if not _is_bidirectional(model):
        return
    raise UnsupportedModel(
        f"{type(model).__name__} attends in both directions here: is_decoder is false in its config, as in the "
        "checkpoint of a masked language model. QEFFAutoModel gives its hidden states. If it was trained to continue "
        "text, load it with transformers' AutoModelForCausalLM.from_pretrained(..., is_decoder=True) and pass that."
    )
