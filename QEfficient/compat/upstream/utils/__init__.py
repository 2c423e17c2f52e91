"""Upstream's helpers around the Hub, tokenizers and folders, in terms of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.compat.moved import names_of
from QEfficient.compile.qpc import QPC_FILE, QPC_FOLDER
from QEfficient.errors import CheckpointNotFound
from QEfficient.store.artifacts import home

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

__all__ = [
    "check_and_assign_cache_dir",
    "get_num_layers_from_config",
    "get_padding_shape_from_config",
    "get_qpc_dir_path",
    "hf_download",
    "load_hf_processor",
    "load_hf_tokenizer",
    "login_and_download_hf_lm",
    "padding_check_and_fix",
    "qpc_exists",
]

__getattr__ = names_of("QEfficient.utils")

PathLike = str | os.PathLike[str]


def hf_download(
    repo_id: PathLike,
    cache_dir: PathLike | None = None,
    hf_token: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
) -> str:
    """The folder of a model: itself if it is one, else its snapshot from the Hub.

    The token is used for this download; it is not stored, as ``huggingface_hub.login`` would.

    Raises:
        CheckpointNotFound: there is none, or it cannot be downloaded.
    """
    from QEfficient.transformers.checkpoint.load import download, resolve

    if Path(repo_id).is_dir() or (allow_patterns is None and ignore_patterns is None):
        return os.fspath(resolve(repo_id, cache_dir=cache_dir, token=hf_token or None))
    options = {"cache_dir": cache_dir, "token": hf_token or None}
    passed = {name: value for name, value in options.items() if value is not None}
    return os.fspath(download(os.fspath(repo_id), passed, list(allow_patterns or ["*"]), list(ignore_patterns or [])))


def login_and_download_hf_lm(
    model_name: PathLike, *, hf_token: str | None = None, cache_dir: PathLike | None = None
) -> str:
    """:func:`hf_download` of what a model needs; logs nobody in."""
    return hf_download(model_name, cache_dir, hf_token)


def load_hf_tokenizer(
    pretrained_model_name_or_path: PathLike,
    cache_dir: PathLike | None = None,
    hf_token: str | None = None,
    padding_side: str = "right",
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token and padding on the right.

    Raises:
        CheckpointNotFound: there is no such model, or it has no tokenizer.
    """
    from QEfficient.transformers.checkpoint.files import VOCABULARIES
    from QEfficient.transformers.checkpoint.load import load_tokenizer

    wanted = ["*.json", "*.jinja", "*.py", *VOCABULARIES]
    folder = hf_download(pretrained_model_name_or_path, cache_dir, hf_token, wanted)
    tokenizer: PreTrainedTokenizerBase | None = load_tokenizer(Path(folder), trust_remote_code)
    if tokenizer is None:
        raise CheckpointNotFound(f"'{pretrained_model_name_or_path}' has no tokenizer: give a model that has one.")
    tokenizer.padding_side = padding_side
    padding_check_and_fix(tokenizer)
    return tokenizer


def load_hf_processor(
    pretrained_model_name_or_path: PathLike,
    cache_dir: PathLike | None = None,
    hf_token: str | None = None,
    trust_remote_code: bool = False,
) -> ProcessorMixin:
    """The processor of a model that sees or hears."""
    from QEfficient.processing.processor import open_processor

    wanted = ["*.json", "*.jinja", "*.py", "*.txt", "*.model"]
    folder = hf_download(pretrained_model_name_or_path, cache_dir, hf_token, wanted)
    processor: ProcessorMixin = open_processor(Path(folder), trust_remote_code)
    return processor


def padding_check_and_fix(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer pad on the right, with the end token where it has no padding token."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def check_and_assign_cache_dir(local_model_dir: PathLike | None, cache_dir: PathLike | None) -> PathLike | None:
    """``cache_dir``, which a folder of the model makes superfluous."""
    return None if local_model_dir is not None else cache_dir


def get_padding_shape_from_config(config: PretrainedConfig, batch_size: int, seq_len: int) -> list[int]:
    """The shape of the keys of a model's first layer: ``[batch, heads, slots, head_dim]``."""
    from transformers import AutoModelForCausalLM

    from QEfficient.transformers.checkpoint.meta_model import outline
    from QEfficient.transformers.lowering.infer_cache_spec import state_specs

    first = state_specs(outline(AutoModelForCausalLM, config, Path(config.name_or_path or ".")))[0]
    return [batch_size, first.num_heads, seq_len, first.key_dim]


def get_num_layers_from_config(config: PretrainedConfig) -> int:
    """Layers of the decoder."""
    layers: int = config.get_text_config(decoder=True).num_hidden_layers
    return layers


def qpc_exists(qpc_dir_path: PathLike) -> bool:
    """Whether a folder holds a compiled program, directly or in ``qpc``."""
    folder = Path(qpc_dir_path)
    return any((place / QPC_FILE).is_file() for place in (folder, folder / QPC_FOLDER))


def get_qpc_dir_path(
    model_card_name: str,
    num_cores: int,
    mos: int,
    batch_size: int,
    prompt_len: int,
    ctx_len: int,
    mxfp6: bool,
    mxint8: bool,
    device_group: Sequence[int] | None,
    full_batch_size: int | None = None,
) -> str:
    """A folder for a package, in the store's home, named by what it is compiled for; pass it as ``compile_dir``.

    The store names its packages in another way: without a folder, ``compile`` returns where the package is.
    """
    slots = "" if full_batch_size is None else f"{full_batch_size}fbs_"
    weights = "mxfp6" if mxfp6 else "fp16"
    sizes = (
        f"{num_cores}cores_{batch_size}bs_{prompt_len}pl_{ctx_len}cl_{mos}mos_{slots}{len(device_group or [0])}devices"
    )
    return str(home() / model_card_name / f"qpc_{sizes}_{weights}{'_mxint8' if mxint8 else ''}" / "qpcs")
