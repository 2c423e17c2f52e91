"""The auto class of encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.texts import TextsModel

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.sequence_inputs import TextContract, TextModel, TextUse


class QEFFAutoModel(TextsModel):
    """An encoder: hidden states of texts, or one pooled vector each. Decoder-only cards give their hidden states.

    ``generate`` returns ``{"output": array}``: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

    Args:
        model: a Hugging Face model, already loaded.
        pooling: None for hidden states, "mean" (or "avg"), "max", "cls", or a traceable function
            ``(last_hidden_states, attention_mask) -> tensor``.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    task = "encoder"
    _specialization_name = "Embedding"

    def __init__(
        self, model: Any, pooling: str | Callable[..., Any] | None = None, *, tokenizer: Any | None = None
    ) -> None:
        from QEfficient.transformers.tasks.encoder import resolve_pooling

        super().__init__(model, tokenizer=tokenizer)
        resolve_pooling(pooling)
        self.pooling = pooling

    @classmethod
    def _auto_class(cls) -> Any:
        return _TextEncoders

    @classmethod
    def _own_arguments(cls) -> tuple[str, ...]:
        return ("pooling",)

    def _plan(self, options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        plan = super()._plan(options, target)
        plan["pooling"] = self._pooling_key()
        return plan

    def _pooling_key(self) -> str | None:
        if not callable(self.pooling):
            return self.pooling
        import uuid

        # A function has no content to compare by, so what it makes is not taken for anything made before.
        return f"function {uuid.uuid4()}"

    def _prepare(self, use: TextUse) -> tuple[TextModel, TextContract]:
        from QEfficient.transformers.tasks.encoder import prepare_encoder

        return prepare_encoder(self.model, self.pooling, use)

    def _graph(self, plan: dict[str, Any]) -> TaskGraph:
        from QEfficient.transformers.tasks.encoder import encoder_graph

        module, contract = self._measured(plan)
        return encoder_graph(module, contract, self.pooling is not None, self._graph_lens(plan))


class _TextEncoders:
    """Loads what transformers has for the text of a checkpoint: a class made for encoding text where there is one
    that takes the checkpoint as it is, else what ``AutoModel`` gives."""

    @staticmethod
    def from_pretrained(card: Any, **kwargs: Any) -> Any:
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

        config = AutoConfig.from_pretrained(card, trust_remote_code=kwargs.get("trust_remote_code", False))
        if type(config) not in AutoModelForTextEncoding._model_mapping:
            return AutoModel.from_pretrained(card, **kwargs)
        return AutoModelForTextEncoding.from_pretrained(card, **kwargs)
