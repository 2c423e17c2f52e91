"""The auto class of encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.compile.job import Specialization
from QEfficient.errors import CapacityError
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.auto_model import AutoModel, check_runtime, onnx_transforms

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.contract import TaskGraph


class QEFFAutoModel(AutoModel):
    """An encoder: hidden states of texts, or one pooled vector each. Decoder-only cards give their hidden states.

    Args:
        model: a Hugging Face model, already loaded.
        pooling: None for hidden states, "mean" (or "avg"), "max", "cls", or a traceable function
            ``(last_hidden_states, attention_mask) -> tensor``.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "encoder"
    options_class: ClassVar[type[EncoderCompileOptions]] = EncoderCompileOptions

    def __init__(
        self, model: Any, pooling: str | Callable[..., Any] | None = None, *, tokenizer: Any | None = None
    ) -> None:
        from QEfficient.transformers.tasks.encoder import resolve_pooling

        super().__init__(model, tokenizer=tokenizer)
        resolve_pooling(pooling)
        self.pooling = pooling

    @classmethod
    def _auto_class(cls) -> Any:
        from transformers import AutoModel

        return AutoModel

    @classmethod
    def _own_arguments(cls) -> tuple[str, ...]:
        return ("pooling",)

    def _plan(self, options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        from QEfficient.transformers.transform import max_positions

        limit = max_positions(self.config)
        if limit is not None and options.seq_lens[-1] > limit:
            raise CapacityError(
                f"seq_len={options.seq_lens[-1]} is beyond the {limit} positions that {self.model_name} was made for."
            )
        return {
            "pooling": self._pooling_key(),
            "lowering": "encoder",
            "transforms": onnx_transforms(options, target),
        }

    def _pooling_key(self) -> str | None:
        if not callable(self.pooling):
            return self.pooling
        import uuid

        # A function has no content to compare by, so what it makes is not taken for anything made before.
        return f"function {uuid.uuid4()}"

    def _graph(self, plan: dict[str, Any]) -> TaskGraph:
        from QEfficient.transformers.tasks.encoder import encoder_graph

        return encoder_graph(self.model, self.pooling)

    def _specializations(
        self, plan: dict[str, Any], options: EncoderCompileOptions, target: Target
    ) -> tuple[Specialization, ...]:
        lengths = options.seq_lens
        return tuple(
            Specialization(name="Embedding", symbols={"batch_size": options.batch_size, "seq_len": length})
            for length in lengths
        )

    def _package_body(self, plan: dict[str, Any], options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        return {
            "task": self.task,
            "target": target.name,
            "architecture": self.model_name,
            "lowering": plan["lowering"],
            "precision": options.precision,
            "num_threads": options.num_threads,
            "compiler_options": dict(options.compiler_options),
            "num_devices": options.num_devices if target.has_static_shapes else 1,
            "seq_lens": list(options.seq_lens),
            "batch_size": options.batch_size,
        }

    def generate(
        self,
        inputs: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
    ) -> dict[str, Any]:
        """Encode texts with the compiled package.

        Args:
            inputs: text, a list of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the checkpoint's.

        Returns:
            ``{"output": array}``: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the greatest compiled ``seq_len``.
        """
        check_runtime(runtime_ai100)
        return self._open(device_ids).generate(inputs, tokenizer=tokenizer)
