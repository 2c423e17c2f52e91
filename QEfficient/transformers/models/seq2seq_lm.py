"""The auto class of text-to-text models: an encoder reads a text, a decoder answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.contract import Specialization
from QEfficient.errors import CapacityError, ExportError, UnsupportedModel
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.options import Seq2SeqLMCompileOptions
from QEfficient.store.artifacts import Artifact
from QEfficient.targets import Target
from QEfficient.transformers.models.auto_model import GeneratingModel, check_runtime, onnx_transforms
from QEfficient.transformers.models.causal_lm import Stream

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.sequence_inputs import Padding

logger = logging.getLogger(__name__)

_SHORT = 16
"""Tokens: a text of as many shows nothing that a shorter one does not."""


class _Plan(dict[str, Any]):
    """What decides the graph; and the longest text, which does so only where one graph cannot be for all."""

    encoder_ctx_len: int = 0


class QEFFAutoModelForSeq2SeqLM(GeneratingModel):
    """A model that answers a text with a text: translation, summaries, and what else T5 and BART are for.

    Args:
        model: a Hugging Face text-to-text model, already loaded; :meth:`from_pretrained` loads one.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "seq2seq_lm"
    options_class: ClassVar[type[Seq2SeqLMCompileOptions]] = Seq2SeqLMCompileOptions
    _followed = ("forced_bos_token_id", "forced_eos_token_id")

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self._paddings: dict[int, Padding] = {}

    @classmethod
    def _auto_class(cls) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def _padding(self, longest: int) -> Padding:
        """How the encoder takes texts of different lengths; measured once for each greatest length."""
        from QEfficient.transformers.tasks.seq2seq_lm import measure_encoder

        if longest not in self._paddings:
            self._paddings[longest] = measure_encoder(self.model, longest)
        return self._paddings[longest]

    def _plan(self, options: Seq2SeqLMCompileOptions, target: Target) -> dict[str, Any]:
        from dataclasses import asdict

        from QEfficient.transformers.lowering.apply import rope_depends_on_length

        self._check_positions(options)
        is_batched = options.full_batch_size is not None if target.has_static_shapes else options.num_slots > 1
        plan = _Plan(
            lowering="retained",
            rows=is_batched,
            rope_len=options.ctx_len if rope_depends_on_length(self.model) else None,
            texts=asdict(self._padding(options.encoder_ctx_len)),
            transforms=onnx_transforms(options, target),
        )
        plan.encoder_ctx_len = options.encoder_ctx_len
        return plan

    def _check_positions(self, options: Seq2SeqLMCompileOptions) -> None:
        from QEfficient.transformers.tasks.seq2seq_lm import max_lens

        for name, limit in max_lens(self.model).items():
            if getattr(options, name) > limit:
                raise CapacityError(
                    f"{name}={getattr(options, name)} is beyond the {limit} positions that {self.model_name} was made "
                    f"for. Give {name}={limit} or less."
                )

    def _graph(self, plan: dict[str, Any]) -> TaskGraph:
        from QEfficient.transformers.tasks.seq2seq_lm import seq2seq_graph

        return seq2seq_graph(
            self.model,
            plan["rope_len"],
            continuous_batching=plan["rows"],
            is_blank=plan["texts"]["is_blank"],
            text_len=plan.get("text_len"),
        )

    def _export(self, plan: dict[str, Any], export_dir: str | os.PathLike[str] | None = None) -> Artifact:
        """One graph for texts of any length, traced with a short one; where the model's code looks at the length, with
        one about as long as the longest."""
        try:
            return super()._export(plan, export_dir)
        except ExportError as error:
            longest = plan.encoder_ctx_len if isinstance(plan, _Plan) else 0
            if longest <= _SHORT or "text_len" in plan:
                raise
            logger.info("%s is exported for texts of up to %d tokens: %s", self.model_name, longest, error)
            # An odd one is no multiple of a block, so that the code that pads to one is in the graph.
            return super()._export({**plan, "text_len": longest - 1 + longest % 2}, export_dir)

    def _specializations(
        self, plan: dict[str, Any], options: Seq2SeqLMCompileOptions, target: Target
    ) -> tuple[Specialization, ...]:
        from QEfficient.transformers.lowering.cache_spec import ENCODER_CTX_LEN, axis_sizes
        from QEfficient.transformers.lowering.infer_cache_spec import encoder_decoder_specs
        from QEfficient.transformers.tasks.seq2seq_lm import specializations

        sizes = axis_sizes(encoder_decoder_specs(self.model)[0], options.ctx_len)
        sizes[ENCODER_CTX_LEN] = options.encoder_ctx_len
        if plan["rows"]:
            sizes["full_batch_size"] = options.num_slots
        return specializations(options.num_slots, sizes, continuous_batching=plan["rows"])

    def _package_body(self, plan: dict[str, Any], options: Seq2SeqLMCompileOptions, target: Target) -> dict[str, Any]:
        encoder: Any = self.model.get_encoder()
        reader = encoder if hasattr(encoder, "get_input_embeddings") else self.model
        return {
            **self._common_body(plan, options, target),
            "session": {
                "num_slots": options.num_slots,
                "ctx_len": options.ctx_len,
                "chunk_len": 1,
                "is_ragged": False,
                "vocab_size": self.model.get_output_embeddings().weight.shape[0],
            },
            "encoder_ctx_len": options.encoder_ctx_len,
            "encoder_vocab_size": reader.get_input_embeddings().weight.shape[0],
            "decoder_start_token_id": self._decoder_start(),
            "texts": plan["texts"],
        }

    def _decoder_start(self) -> int:
        """The token that every answer begins with, as transformers finds it."""
        generation = self.model.generation_config
        for held in (generation.decoder_start_token_id, generation.bos_token_id):
            if held is not None:
                return int(held[0] if isinstance(held, list) else held)
        raise UnsupportedModel(
            f"{self.model_name} does not say which token an answer starts with: set decoder_start_token_id in the "
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
            tokenizer: default: the checkpoint's.
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
            prompts, tokenizer=tokenizer, generation_len=generation_len, stream=stream, **options
        )
        return answers

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Options are those of :meth:`generate`."""
        pieces: Iterator[str] = self._open().stream(prompt, **options)
        return pieces
