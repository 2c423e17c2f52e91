"""The tasks: one record each, whose halves are imported when they are needed.

The torch half (an auto class and its graphs) compiles a model; the runtime half runs its package, with neither torch
nor transformers. Names, loaders, packages, the command line and the documentation read this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from QEfficient.errors import UnsupportedModel
from QEfficient.options import (
    CausalLMCompileOptions,
    CompileOptions,
    CTCCompileOptions,
    EncoderCompileOptions,
    ImageTextToTextCompileOptions,
    Seq2SeqLMCompileOptions,
    SpeechSeq2SeqCompileOptions,
    Vision2SeqCompileOptions,
)
from QEfficient.targets import load

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.base.modeling_qeff import QEFFBaseModel
    from QEfficient.generation.compiled_model import CompiledModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One kind of model: what goes in and what comes out."""

    name: str
    kind: str
    """Name of such a model in messages: "an encoder"."""
    options: type[CompileOptions]
    """The options of ``compile``."""
    auto_class: str
    """The torch half, as ``module:class``. The class's name is public."""
    compiled: str
    """The runtime half, as ``module:class``."""

    @property
    def public_name(self) -> str:
        """The auto class's name."""
        return self.auto_class.partition(":")[2]

    def load_auto_class(self) -> type[QEFFBaseModel]:
        """The torch half; imports torch."""
        auto_class: type[QEFFBaseModel] = load(self.auto_class)
        return auto_class

    def load_compiled(self) -> type[CompiledModel]:
        """The runtime half."""
        compiled: type[CompiledModel] = load(self.compiled)
        return compiled


_MODELS, _RUNTIME = "QEfficient.transformers.models", "QEfficient.generation.tasks"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="vision2seq",
            kind="an encoder that sees and its decoder",
            options=Vision2SeqCompileOptions,
            auto_class=f"{_MODELS}.vision2seq:QEFFAutoModelForVision2Seq",
            compiled=f"{_RUNTIME}.vision2seq:CompiledVision2Seq",
        ),
        Task(
            name="seq2seq_lm",
            kind="a sequence-to-sequence model",
            options=Seq2SeqLMCompileOptions,
            auto_class=f"{_MODELS}.seq2seq_lm:QEFFAutoModelForSeq2SeqLM",
            compiled=f"{_RUNTIME}.seq2seq_lm:CompiledSeq2SeqLM",
        ),
        Task(
            name="speech_seq2seq",
            kind="a speech recognition model",
            options=SpeechSeq2SeqCompileOptions,
            auto_class=f"{_MODELS}.speech_seq2seq:QEFFAutoModelForSpeechSeq2Seq",
            compiled=f"{_RUNTIME}.speech_seq2seq:CompiledSpeechSeq2Seq",
        ),
        Task(
            name="sequence_classification",
            kind="a classifier",
            options=EncoderCompileOptions,
            auto_class=f"{_MODELS}.sequence_classification:QEFFAutoModelForSequenceClassification",
            compiled=f"{_RUNTIME}.sequence_classification:CompiledSequenceClassifier",
        ),
        Task(
            name="image_text_to_text",
            kind="a model that sees",
            options=ImageTextToTextCompileOptions,
            auto_class=f"{_MODELS}.image_text_to_text:QEFFAutoModelForImageTextToText",
            compiled=f"{_RUNTIME}.image_text_to_text:CompiledImageTextToText",
        ),
        Task(
            name="ctc",
            kind="a CTC model",
            options=CTCCompileOptions,
            auto_class=f"{_MODELS}.ctc:QEFFAutoModelForCTC",
            compiled=f"{_RUNTIME}.ctc:CompiledCTC",
        ),
        Task(
            name="causal_lm",
            kind="a causal language model",
            options=CausalLMCompileOptions,
            auto_class=f"{_MODELS}.causal_lm:QEFFAutoModelForCausalLM",
            compiled=f"{_RUNTIME}.causal_lm:CompiledCausalLM",
        ),
        Task(
            name="encoder",
            kind="an encoder",
            options=EncoderCompileOptions,
            auto_class=f"{_MODELS}.encoder:QEFFAutoModel",
            compiled=f"{_RUNTIME}.encoder:CompiledEncoder",
        ),
    )
}
"""By name. A checkpoint gets the first whose auto class takes its config."""


def auto_class_for_config(config: PretrainedConfig) -> type[QEFFBaseModel]:
    """The auto class of a checkpoint, by its config.

    Raises:
        UnsupportedModel: none takes it.
    """
    heads = config.architectures or []
    for task in TASKS.values():
        auto_class = task.load_auto_class()
        if auto_class.takes(config, heads):
            return auto_class
    raise UnsupportedModel(
        f"No class here runs {', '.join(heads)} yet. QEFFAutoModel gives the hidden states that many such models have "
        "for text."
    )


def auto_class_for_model(model: PreTrainedModel) -> type[QEFFBaseModel]:
    """The auto class of a model that is loaded.

    Raises:
        UnsupportedModel: none takes it.
    """
    for task in TASKS.values():
        auto_class = task.load_auto_class()
        if auto_class.takes_model(model):
            return auto_class
    raise UnsupportedModel(f"No class here runs {type(model).__name__} yet.")
