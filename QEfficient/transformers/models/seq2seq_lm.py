"""The auto class of sequence-to-sequence models: an encoder reads, a decoder generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.base.open_package import check_runtime
from QEfficient.contract import Json, Specialization
from QEfficient.errors import ExportError
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.seq2seq_lm import Seq2SeqRecord
from QEfficient.generation_options import CallArguments, GenerationOptions
from QEfficient.option_docs import lists_options
from QEfficient.option_types import GenerateArgs, Seq2SeqLMCompileArgs
from QEfficient.options import Seq2SeqLMCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.generative_model import Stream
from QEfficient.transformers.models.seq2seq_model import EncoderDecoderPlan, QEFFEncoderDecoderModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from QEfficient.transformers.tasks.encoder_sources import EncoderSource
    from QEfficient.transformers.tasks.sequence_inputs import Padding

_SHORT = 16
"""Tokens: a text of as many shows nothing that a shorter one does not."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqPlan(EncoderDecoderPlan):
    """What decides the graphs of a sequence-to-sequence model."""

    padding: Padding
    """Of the encoder's input."""
    text_len: int | None = None
    """Tokens of the encoder input to trace with, where the model's code looks at its length; then the maximum."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "padding": {**asdict(self.padding), "reason": ""}}


class QEFFAutoModelForSeq2SeqLM(QEFFEncoderDecoderModel[Seq2SeqPlan, Seq2SeqLMCompileOptions]):
    """A model that turns one text into another: translation, summaries, and what else T5 and BART are for.

    Args:
        model: a Hugging Face sequence-to-sequence model, already loaded; :meth:`from_pretrained` loads one.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "seq2seq_lm"
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
        padding = self._padding(options.encoder_ctx_len)
        return Seq2SeqPlan(**self._plan_ingredients(options, target), padding=padding)

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

    def _encoder_source(self, plan: Seq2SeqPlan) -> EncoderSource:
        from QEfficient.transformers.tasks.encoder_sources import TextSource

        return TextSource(plan.padding.is_blank, plan.text_len)

    def _specializations(
        self, plan: Seq2SeqPlan, options: Seq2SeqLMCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        return self._shapes(plan, options, options.encoder_ctx_len)

    def _session(self, plan: Seq2SeqPlan, options: Seq2SeqLMCompileOptions, target: Target) -> Seq2SeqRecord:
        encoder: Any = self._loaded().get_encoder()
        reader = encoder if hasattr(encoder, "get_input_embeddings") else self._loaded()
        limit = self.max_lens().get("encoder_ctx_len")
        return Seq2SeqRecord(
            decoder=self._decoder_record(plan, options),
            encoder_ctx_len=options.encoder_ctx_len,
            # Traced for a length, the graph is checked for nothing longer than it was compiled for.
            max_encoder_ctx_len=limit if plan.text_len is None else options.encoder_ctx_len,
            encoder_vocab_size=reader.get_input_embeddings().weight.shape[0],
            decoder_start_token_id=self._decoder_start(),
            hidden_size=self._encoder_width(),
            why_not_padded=plan.padding.reason if plan.padding.side is None else None,
        )

    def compile(  # type: ignore[override]  # of the base, any
        self, compile_dir: PathLike | None = None, **options: Unpack[Seq2SeqLMCompileArgs]
    ) -> Path:
        return super().compile(compile_dir, **options)

    @lists_options(GenerationOptions, CallArguments)
    def generate(
        self,
        prompts: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: Stream = False,
        **options: Unpack[GenerateArgs],
    ) -> CloudAI100ExecInfo:
        """Answer texts with the compiled package.

        In multilingual models, ``forced_bos_token_id`` is the language of the answer.

        Args:
            prompts: text, a list of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens, for all prompts or one per prompt; default: the checkpoint's
                ``max_new_tokens``, else what fits ``ctx_len``.
            stream: True prints the text as it comes; a function is called with each piece.
            options: see :meth:`QEFFAutoModelForCausalLM.generate`.

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
