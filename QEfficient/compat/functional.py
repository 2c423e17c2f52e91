"""Upstream's functional interface: the same lifecycle, one function per stage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel
from QEfficient.errors import OptionError
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.transformers.models.common_loader import QEFFCommonLoader
from QEfficient.transformers.transform import transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from QEfficient.option_types import GenerateArgs

CompileValue = bool | float | str | Sequence[int] | Mapping[str, Any] | None
"""An option of ``compile``."""


def qualcomm_efficient_converter(
    model_name: str,
    model_kv: QEFFBaseModel | None = None,
    local_model_dir: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    cache_dir: str | None = None,
    onnx_dir_path: PathLike | None = None,
    hf_token: str | None = None,
    seq_length: int = 32,
    kv: bool = True,
    form_factor: str = "cloud",
    full_batch_size: int | None = None,
) -> tuple[Path, Path]:
    """Export a model to ONNX.

    Args:
        model_name: a model id on the Hub, used unless ``model_kv`` or ``local_model_dir`` is set.
        model_kv: a model that is loaded already.
        onnx_dir_path: a folder to write to instead of the store.
        kv: upstream's switch for graphs that keep state; only True is supported.
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


def compile(
    model: QEFFBaseModel | PreTrainedModel | PathLike, compile_dir: PathLike | None = None, **options: CompileValue
) -> Path:
    """Compile a model of this library, a Hugging Face model, or a checkpoint by model id or folder.

    Options are those of the model's ``compile`` method.

    Returns:
        The package's folder.
    """
    if isinstance(model, str | os.PathLike):
        model = QEFFCommonLoader.from_pretrained(model)
    return transform(model).compile(compile_dir, **options)


def cloud_ai_100_exec_kv(
    tokenizer: PreTrainedTokenizerBase | None,
    qpc_path: PathLike,
    prompt: str | list[str] | None = None,
    prompts_txt_file_path: PathLike | None = None,
    generation_len: int | None = None,
    stream: bool = True,
    prompt_to_lora_id_mapping: Sequence[int] | None = None,
    **sampling: Unpack[GenerateArgs],
) -> CloudAI100ExecInfo:
    """Run a compiled package.

    Args:
        tokenizer: a transformers tokenizer; None: that of the package.
        qpc_path: the folder that ``compile`` returned.
        prompt: one prompt or several; a single text is split at ``|``.
        prompts_txt_file_path: a file with one prompt per line, instead.
        generation_len: maximum number of new tokens per prompt.
        stream: print the text while it is generated.
        prompt_to_lora_id_mapping: the number of each prompt's adapter, 0 for the base model; the option ``adapter``
            takes their names.
        sampling: the other options of ``generate``.
    """
    from QEfficient.generation.package import from_package
    from QEfficient.generation.prompts import read_prompts
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

    prompts = read_prompts(prompt, prompts_txt_file_path)
    with from_package(qpc_path) as compiled:
        if not isinstance(compiled, CompiledDecoder):
            raise OptionError(f"{qpc_path} holds '{compiled.task}', which takes no prompts; use from_package().")
        if prompt_to_lora_id_mapping is not None:
            sampling["adapter"] = [
                compiled.engine.session.info.adapter_name(each) for each in prompt_to_lora_id_mapping
            ]
        return compiled.generate(prompts, tokenizer=tokenizer, generation_len=generation_len, stream=stream, **sampling)
