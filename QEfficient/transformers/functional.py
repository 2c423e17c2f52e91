"""Upstream's functional interface: the same lifecycle, one call a stage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from QEfficient.base.modeling_qeff import QEFFBaseModel
from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.transformers.models.modeling_auto import (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)

PathLike = str | os.PathLike[str]


class QEFFCommonLoader:
    """Loads a card with the class that its config asks for."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, **kwargs: Any) -> QEFFBaseModel:
        """A causal LM, a text-to-text model or a classifier where the config names one, else an encoder.

        Args:
            pretrained_model_name_or_path: a Hub card or a local folder.
            kwargs: as in the class's ``from_pretrained``; upstream's ``hf_token``, ``local_model_dir`` and
                ``full_batch_size`` are understood.
        """
        from transformers import AutoConfig

        from QEfficient.transformers.checkpoint import load as checkpoint

        full_batch_size = kwargs.pop("full_batch_size", None)
        card, kwargs = _upstream_arguments(pretrained_model_name_or_path, kwargs)
        options = {name: value for name, value in kwargs.items() if name in checkpoint.LOAD_OPTIONS}
        folder = checkpoint.resolve(card, **options)
        trust = kwargs.get("trust_remote_code", False)
        checkpoint.check_safe(folder, trust)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        chosen = _class_for(config)
        if full_batch_size is not None and "continuous_batching" in chosen._own_arguments():
            kwargs.setdefault("continuous_batching", True)
        return chosen.from_pretrained(card, **kwargs)


def _upstream_arguments(card: PathLike, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kwargs = dict(kwargs)
    if (token := kwargs.pop("hf_token", None)) is not None:
        kwargs["token"] = token
    local = kwargs.pop("local_model_dir", None)
    return os.fspath(local or card), {name: value for name, value in kwargs.items() if value is not None}


def _class_for(config: Any) -> type[QEFFBaseModel]:
    heads = config.architectures or []
    if _answers_texts(config, heads):
        return QEFFAutoModelForSeq2SeqLM
    if _continues_texts(heads):
        return QEFFAutoModelForCausalLM
    if any(head.endswith("ForSequenceClassification") for head in heads):
        return QEFFAutoModelForSequenceClassification
    if any("For" in head and not head.endswith("ForMaskedLM") for head in heads):
        raise UnsupportedModel(f"No class here runs {', '.join(heads)} yet.")
    return QEFFAutoModel


def _continues_texts(heads: Sequence[str]) -> bool:
    """Whether a model is a causal LM by its name, or one that can also see (Gemma 3's is ForConditionalGeneration)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return any(head.endswith(("ForCausalLM", "LMHeadModel")) or head in NAMES.values() for head in heads)


def _answers_texts(config: Any, heads: Sequence[str]) -> bool:
    """Whether a model is one of text to text: an encoder, and a decoder with a language model's head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as NAMES

    known = {*NAMES.values(), "T5WithLMHeadModel"}  # the name that T5's first checkpoints have
    return bool(getattr(config, "is_encoder_decoder", False)) and any(head in known for head in heads)


def transform(model: Any, form_factor: str = "cloud") -> QEFFBaseModel:
    """Wrap a Hugging Face model and check that it can be lowered.

    Args:
        model: a Hugging Face model, or one of this library's.
        form_factor: "cloud", the only one there is.

    Raises:
        OptionError: another form factor.
        UnsupportedModel: no lowering can express the model.
    """
    if form_factor != "cloud":
        raise OptionError(f"form_factor must be 'cloud', got {form_factor!r}.")
    if isinstance(model, QEFFBaseModel):
        return model
    if type(model).__name__.endswith("ForSequenceClassification"):
        return QEFFAutoModelForSequenceClassification(model)
    if _answers_texts(model.config, [type(model).__name__]):
        return QEFFAutoModelForSeq2SeqLM(model).transform()
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None:
        return QEFFAutoModelForCausalLM(model).transform()
    return QEFFAutoModel(model)


def qualcomm_efficient_converter(
    model_name: str,
    model_kv: QEFFBaseModel | None = None,
    local_model_dir: str | None = None,
    tokenizer: Any | None = None,
    cache_dir: str | None = None,
    onnx_dir_path: PathLike | None = None,
    hf_token: str | None = None,
    seq_length: int = 32,
    kv: bool = True,
    form_factor: str = "cloud",
    full_batch_size: int | None = None,
) -> tuple[Path, Path]:
    """Export a card to ONNX.

    Args:
        model_name: a Hub card, used unless ``model_kv`` or ``local_model_dir`` is given.
        model_kv: a model that is loaded already.
        onnx_dir_path: a folder of your own instead of the store.
        kv: upstream's switch for graphs that keep state; True, the only kind there is.
        full_batch_size: export for continuous batching.

    Returns:
        The folder and the path of the graph.
    """
    if form_factor != "cloud" or not kv:
        raise OptionError("form_factor must be 'cloud' and kv True; other forms are no longer made.")
    model = model_kv or QEFFCommonLoader.from_pretrained(
        model_name,
        local_model_dir=local_model_dir,
        cache_dir=cache_dir,
        hf_token=hf_token,
        full_batch_size=full_batch_size,
    )
    if tokenizer is not None:
        model.tokenizer = tokenizer
    options = {"full_batch_size": full_batch_size} if full_batch_size is not None else {}
    path = model.export(onnx_dir_path, **options)
    return path.parent, path


export = qualcomm_efficient_converter


def compile(model: Any, compile_dir: PathLike | None = None, **options: Any) -> Path:
    """Compile a model of this library, a Hugging Face model or a card. Options are those of its ``compile`` method.

    Returns:
        The package's folder.
    """
    if isinstance(model, str | os.PathLike):
        model = QEFFCommonLoader.from_pretrained(model)
    return transform(model).compile(compile_dir, **options)


def cloud_ai_100_exec_kv(
    tokenizer: Any | None,
    qpc_path: PathLike,
    prompt: str | list[str] | None = None,
    prompts_txt_file_path: PathLike | None = None,
    generation_len: int | None = None,
    stream: bool = True,
    **sampling: Any,
) -> CloudAI100ExecInfo:
    """Run a compiled package.

    Args:
        tokenizer: a transformers tokenizer, or None for the package's own.
        qpc_path: the folder that ``compile`` returned.
        prompt: one prompt or several; several may also be given as one text, split at ``|``.
        prompts_txt_file_path: a file with a prompt a line, instead.
        generation_len: most new tokens a prompt.
        stream: print the text as it comes.
    """
    from QEfficient.generation.package import CompiledCausalLM, from_package
    from QEfficient.generation.prompts import read_prompts

    prompts = read_prompts(prompt, prompts_txt_file_path)
    with from_package(qpc_path) as compiled:
        if not isinstance(compiled, CompiledCausalLM):
            raise OptionError(f"{qpc_path} holds '{compiled.task}', which answers no prompts; use from_package().")
        return compiled.generate(prompts, tokenizer=tokenizer, generation_len=generation_len, stream=stream, **sampling)
