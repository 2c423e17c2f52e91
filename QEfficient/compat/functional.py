"""Upstream's functional interface: the same lifecycle, one function per stage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from QEfficient.errors import OptionError
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.targets import choose_target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel
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
    from QEfficient.transformers.models.common_loader import QEFFCommonLoader

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
    model: QEFFBaseModel | PreTrainedModel | PathLike | None = None,
    compile_dir: PathLike | None = None,
    num_cores: int | None = None,
    device_group: Sequence[int] | None = None,
    *,
    onnx_path: PathLike | None = None,
    qpc_path: PathLike | None = None,
    **options: CompileValue,
) -> Path:
    """Compile a model of this library, a Hugging Face model, a checkpoint by model id or folder, or a graph.

    Args:
        model: what to compile; a path that ends in ``.onnx`` is a graph that was exported here, for which no checkpoint
            is needed. The package of a graph has no tokenizer: pass one to :func:`cloud_ai_100_exec_kv`.
        compile_dir: a folder to write to instead of the store.
        num_cores: cores of a card.
        device_group: cards to slice the model over; their number counts, and they are chosen when it runs.
        onnx_path: upstream's name for a graph. A card's weights are MXFP6 then unless ``mxfp6`` is False, as there.
        qpc_path: upstream's name for ``compile_dir``.
        options: those of the model's ``compile`` method.

    Returns:
        The package's folder.
    """
    source = onnx_path if model is None else model
    if source is None or (model is not None and onnx_path is not None):
        raise OptionError("compile() takes either a model or onnx_path.")
    passed = {"num_cores": num_cores, "device_group": device_group}
    options |= {name: value for name, value in passed.items() if value is not None}
    folder = qpc_path if compile_dir is None else compile_dir
    if isinstance(source, str | os.PathLike) and os.fspath(source).endswith(".onnx"):
        return _compile_graph(source, folder, options)
    return _loaded(source).compile(folder, **options)


def _compile_graph(onnx_path: PathLike, folder: PathLike | None, options: dict[str, CompileValue]) -> Path:
    from QEfficient.transformers.models.graph import open_graph

    target = choose_target(str(options["target"]) if options.get("target") else None)
    if target.has_card_numerics and not {"mxfp6", "mxfp6_matmul"} & options.keys():
        options["mxfp6_matmul"] = True
    return open_graph(onnx_path).compile(folder, **options)


def _loaded(model: QEFFBaseModel | PreTrainedModel | PathLike) -> QEFFBaseModel:
    from QEfficient.transformers.models.common_loader import QEFFCommonLoader
    from QEfficient.transformers.transform import transform

    if isinstance(model, str | os.PathLike):
        return QEFFCommonLoader.from_pretrained(model)
    return transform(model)


def cloud_ai_100_exec_kv(
    tokenizer: PreTrainedTokenizerBase | None,
    qpc_path: PathLike,
    prompt: str | list[str] | None = None,
    prompts_txt_file_path: PathLike | None = None,
    device_id: Sequence[int] | None = None,
    generation_len: int | None = None,
    stream: bool = True,
    prompt_to_lora_id_mapping: Sequence[int] | None = None,
    **options: Unpack[GenerateArgs],
) -> CloudAI100ExecInfo:
    """Run a compiled package.

    Args:
        tokenizer: a transformers tokenizer; None: that of the package.
        qpc_path: the folder that ``compile`` returned.
        prompt: one prompt or several; a single text is split at ``|``.
        prompts_txt_file_path: a file with one prompt per line, instead.
        device_id: the cards to run on; None: those with the most free cores. No effect on ``cpu``.
        generation_len: maximum number of new tokens per prompt.
        stream: print the text while it is generated.
        prompt_to_lora_id_mapping: the number of each prompt's adapter, 0 for the base model; the option ``adapter``
            takes their names.
        options: the other options of ``generate``.
    """
    from QEfficient.generation.package import from_package
    from QEfficient.generation.prompts import read_prompts
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

    prompts = read_prompts(prompt, prompts_txt_file_path)
    with from_package(qpc_path, device_id) as compiled:
        if not isinstance(compiled, CompiledDecoder):
            raise OptionError(f"{qpc_path} holds '{compiled.task}', which takes no prompts; use from_package().")
        if prompt_to_lora_id_mapping is not None:
            names = [compiled.engine.session.info.adapter_name(each) for each in prompt_to_lora_id_mapping]
            options["adapter"] = names
        return compiled.generate(prompts, tokenizer=tokenizer, generation_len=generation_len, stream=stream, **options)
