"""What the folder of a checkpoint in sentence-transformers' layout says of texts: prompts, maximum length, case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from QEfficient.errors import CorruptCheckpoint
from QEfficient.generation.embedding import EmbeddingRecord, Similarity
from QEfficient.transformers.checkpoint.files import contained, read_json, shortened

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_NO_LIMIT = 1 << 24
"""Tokenizers without a maximum length say a number far beyond this."""
_SETTINGS, _OLD_SETTINGS = "sentence_bert_config.json", "sentence_*_config.json"
"""What sentence-transformers reads, and what it called the file of other models once."""


def read_embedding(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, config: PretrainedConfig, pools_prompt: bool = True
) -> EmbeddingRecord:
    """The settings of a checkpoint in ``folder``; a tokenizer that is to lower the case of texts does so from now on.

    Raises:
        CorruptCheckpoint: a setting has another type than sentence-transformers writes.
        UnsafeCheckpoint: a file is outside of the folder.
    """
    names = [_SETTINGS, *sorted(path.name for path in folder.glob(_OLD_SETTINGS))]
    paths = [path for name in names if (path := contained(folder, name)).is_file()]
    settings = read_json(paths[0]) if paths else {}
    if settings.get("do_lower_case") and tokenizer is not None:
        _lower_case(tokenizer)
    path = contained(folder, "config_sentence_transformers.json")
    values = read_json(path) if path.is_file() else {}
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CorruptCheckpoint(f"{path}: prompts must be texts by name, got {shortened(prompts)}.")
    default: Any = values.get("default_prompt_name")
    kind: Any = values.get("similarity_fn_name") or "cosine"
    if default is not None and default not in prompts:
        raise CorruptCheckpoint(f"{path}: default_prompt_name {shortened(default)} is none of its prompts.")
    if kind not in get_args(Similarity):
        raise CorruptCheckpoint(f"{path}: similarity_fn_name must be of {', '.join(get_args(Similarity))}.")
    return EmbeddingRecord(
        prompts={name: text or "" for name, text in prompts.items()},
        default_prompt_name=default,
        max_seq_len=_max_seq_len(settings.get("max_seq_length"), str(folder), tokenizer, config),
        pools_prompt=pools_prompt,
        similarity=kind,
    )


def _max_seq_len(value: object, where: str, tokenizer: Any, config: PretrainedConfig) -> int | None:
    """As sentence-transformers: what the folder says, else the tokenizer's, which positions limit."""
    if value is not None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CorruptCheckpoint(f"{where}: max_seq_length must be a number of tokens, got {shortened(value)}.")
        return value
    limits = [getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(known, default=None)


def _lower_case(tokenizer: Any) -> None:
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        tokenizer.do_lower_case = True
        return
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
